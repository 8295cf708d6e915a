"""The one assistant message that a run writes: opened, grown, withdrawn, ended."""

from collections.abc import Sequence
from dataclasses import replace

from app.domain import ids
from app.domain.events import Delta, Draft, MessageChanged, Withdrawal
from app.domain.models import Message, MessageStatus, Part, PartKind, Role, Run
from app.domain.text import clean
from app.services.publisher import RunLog


class Answer:
    """What the student sees of a run's answer so far.

    What was said before functions were called stands; parts are counted from there on.
    """

    def __init__(
        self, log: RunLog, run: Run, shown: Message | None, said: Sequence[Part] = ()
    ) -> None:
        self._log = log
        self._run = run
        self._message = shown
        """What an earlier holder of the run opened, with the text that it has."""
        self._said = list(said)
        """The parts of earlier rounds: final."""
        self._opened: MessageChanged | None = None
        present = shown.content[len(self._said) :] if shown else ()
        self._parts: list[list[str]] = [[part.text] for part in present]
        self._kinds: list[PartKind] = [part.kind for part in present]
        self._known: dict[int, str] = {}
        """While the answer is heard again: what is shown of each part and was not heard yet."""

    @property
    def message_id(self) -> str | None:
        """The message's id, once there is one."""
        return self._message.id if self._message else None

    @property
    def has_text(self) -> bool:
        """Whether anything is shown."""
        return any("".join(part) for part in self._parts)

    @property
    def is_repeated(self) -> bool:
        """Whether what comes next is shown already."""
        return bool(self._known)

    def hear_again(self) -> None:
        """Pass over what is shown: the answer comes once more, from its beginning."""
        texts = map("".join, self._parts)
        self._known = {part: text for part, text in enumerate(texts) if text}

    def grow(self, part: int, text: str, kind: PartKind) -> None:
        """Show more text of a part."""
        text = clean(text)
        if self._known:
            text = self._unknown(part, text)
            if not text:
                return
        self._show(part, text, kind)

    def _unknown(self, part: int, text: str) -> str:
        """Return what of a part's next text is not shown yet; withdraw what is contradicted."""
        known = self._known.pop(part, "")
        if known.startswith(text):
            rest = known[len(text) :]
            if rest:
                self._known[part] = rest
            return ""
        if text.startswith(known):
            return text[len(known) :]
        self._known[part] = known
        unheard = [len(self._known.get(index, "")) for index in range(len(self._parts))]
        shown = ["".join(texts) for texts in self._parts]
        kinds = self._kinds
        self.withdraw("corrected")
        for index, whole in enumerate(shown):
            heard = whole[: len(whole) - unheard[index]]
            if heard:
                self._show(index, heard, kinds[index])
        return text

    def _show(self, part: int, text: str, kind: PartKind) -> None:
        is_first = self._message is None
        message = self._message or self._open()
        while len(self._parts) <= part:
            self._parts.append([])
            self._kinds.append(kind)
        self._parts[part].append(text)
        place = len(self._said) + part
        if is_first:
            self._log.append(Delta(message.id, self._run.id, place, [text]))
        else:
            self._log.delta(message.id, place, text)

    def _open(self) -> Message:
        self._message = Message(
            id=ids.new_id(ids.MESSAGE),
            session_id=self._run.session_id,
            run_id=self._run.id,
            role=Role.ASSISTANT,
            status=MessageStatus.IN_PROGRESS,
            content=(),
            metadata={},
            turn=self._run.turn,
        )
        self._opened = MessageChanged(self._message, run_id=self._run.id, is_new=True)
        self._log.append(self._opened)
        return self._message

    def withdraw(self, reason: str) -> None:
        """Take back what is shown: another attempt starts again."""
        if self._message is not None and self.has_text:
            from_part = len(self._said)
            self._log.append(Withdrawal(self._message.id, self._run.id, from_part, reason))
        self._parts, self._kinds, self._known = [], [], {}

    def agree(self, content: Sequence[Part]) -> None:
        """Make what is shown what the upstream says was meant, by more text if that is enough.

        A stream may have lost, doubled or reordered a delta; its final account has not.
        """
        self._known = {}
        final = [clean(part.text) for part in content]
        shown = ["".join(part) for part in self._parts]
        extends = len(shown) <= len(final) and all(
            whole.startswith(part) for part, whole in zip(shown, final, strict=False)
        )
        if not extends:
            self.withdraw("corrected")
            shown = []
        for index, (part, text) in enumerate(zip(content, final, strict=True)):
            rest = text[len(shown[index]) :] if index < len(shown) else text
            if rest:
                self.grow(index, rest, part.kind)

    def end(self, status: MessageStatus, content: Sequence[Part] | None = None) -> list[Draft]:
        """Return the event that ends the message; with `completed` there is always a message."""
        if self._message is None:
            if status is not MessageStatus.COMPLETED:
                return []
            self._open()
        message = self._message
        if message is None:
            return []
        whole = [*self._said, *self._present(content)]
        ended = replace(message, status=status, content=whole)
        return [MessageChanged(ended, run_id=self._run.id, opened=self._opened)]

    def close_round(self, content: Sequence[Part]) -> list[Part]:
        """Let what was said stand: functions are called now. Return this round's parts."""
        self.agree(content)
        present = self._present(content)
        self._said += present
        self._parts, self._kinds = [], []
        return present

    def _present(self, content: Sequence[Part] | None) -> list[Part]:
        """Return this round's parts as they are shown, with the annotations of the account."""
        notes = [part.annotations for part in content or ()]
        return [
            Part("".join(texts), kind, notes[index] if index < len(notes) else ())
            for index, (texts, kind) in enumerate(zip(self._parts, self._kinds, strict=True))
        ]
