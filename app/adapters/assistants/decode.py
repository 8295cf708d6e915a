"""The dialect's events and objects, as domain events.

Events are told apart by their name alone: unknown ones are passed over, and the SDK would read
them as threads. A run's end does not repeat what it said: that is in its messages.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.adapters.assistants.steps import StepReader
from app.adapters.assistants.tail import RunName, Tail, calls_of, digest_of
from app.adapters.wire.errors import UNREADABLE, failure, interrupted, of_response
from app.adapters.wire.sse import NamedEvent
from app.adapters.wire.values import ident, load, name, text
from app.domain.models import Part, PartKind, RunStatus, ToolCall, Usage
from app.domain.text import clean_json
from app.ports import Ended, Restarted, Started, TextDelta, UpstreamEvent

RUNNING: Final = frozenset({"queued", "in_progress", "cancelling"})
STATUSES: Final = {
    "completed": RunStatus.COMPLETED,
    "incomplete": RunStatus.INCOMPLETE,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
    "expired": RunStatus.EXPIRED,
    "requires_action": RunStatus.REQUIRES_ACTION,
}
"""How a run ends, or waits for us: its stream ends then too."""
TEXT_DELTA: Final = "thread.message.delta"
_RUN: Final = "thread.run."
_RUNS: Final = {f"{_RUN}{status}" for status in ("created", *RUNNING, *STATUSES)}
_STEP: Final = "thread.run.step."
_STEPS: Final = {
    f"{_STEP}{what}" for what in ("created", "in_progress", "delta", "completed", "failed")
}
_MESSAGE: Final = "thread.message."
_MESSAGES: Final = {f"{_MESSAGE}{what}" for what in ("created", "completed", "incomplete")}
_KINDS: Final = {"text": PartKind.TEXT, "refusal": PartKind.REFUSAL}
_REASONS: Final = {"max_completion_tokens": "max_output_tokens"}


class RunDecoder:
    """One stream's state: what was said so far, message by message."""

    def __init__(self, thread_id: str, tail: Tail | None = None) -> None:
        self._thread_id = thread_id
        self._tail = tail or Tail()
        self._parts: dict[tuple[str, int], int] = {}
        self._heard: dict[int, list[str]] = {}
        self._kinds: dict[int, PartKind] = {}
        self._messages: dict[str, dict[str, Any] | None] = {}
        """Those of the run in their order; with what they hold, once they have ended."""
        self._steps = StepReader()
        self.run: dict[str, Any] = {}
        """The run, as last told."""

    @property
    def is_whole(self) -> bool:
        """Whether all was heard that counts.

        A run that waits for functions may go on in the same message.
        """
        if self.run["status"] == RunStatus.REQUIRES_ACTION:
            return False
        ended = self._messages.values()
        return all(ended) and (bool(ended) or self.run["status"] != "completed")

    def decode(self, event: NamedEvent) -> Iterator[UpstreamEvent | Ended]:
        """Yield what an event means, `Ended` last.

        Raises:
            UpstreamError: The upstream reports an error, or sends what can't be read.
        """
        kind = event.name
        try:
            if kind == TEXT_DELTA:
                # Every token passes here.
                found = load(event.data)
                for content in found["delta"].get("content") or ():
                    yield from self._delta(found["id"], content)
            elif kind in _MESSAGES:
                yield from self._message(kind.removeprefix(_MESSAGE), load(event.data))
            elif kind in _STEPS:
                yield from self._steps.read(kind.removeprefix(_STEP), load(event.data))
            elif kind in _RUNS:
                yield from self._run(kind.removeprefix(_RUN), load(event.data))
            elif kind == "error":
                found = load(event.data)
                # The run may go on without this stream: what it came to is asked for.
                code, retryable = of_response(found.get("error", found))
                if retryable:
                    raise failure(code, retryable=True, generated=True)
                raise interrupted()
        except UNREADABLE:
            raise interrupted("upstream_garbage") from None

    def _run(self, status: str, run: dict[str, Any]) -> Iterator[UpstreamEvent | Ended]:
        is_first = not self.run
        self.run = run
        if is_first:
            yield Started(str(RunName(self._thread_id, ident(run["id"]), self._tail)))
        if status in STATUSES:
            self.run = {**run, "status": status}
            yield ended(self.run, [each for each in self._messages.values() if each], self._tail)

    def _delta(self, message_id: str, content: dict[str, Any]) -> Iterator[UpstreamEvent]:
        if message_id not in self._messages:
            self._messages[text(message_id)] = None
        kind = _KINDS.get(content["type"])
        if kind is None or (
            message_id == self._tail.message_id and content["index"] < self._tail.parts
        ):
            return
        told = content["text"].get("value") if kind is PartKind.TEXT else content["refusal"]
        if not told:
            return
        key = (message_id, content["index"])
        part = self._parts.setdefault(key, len(self._parts))
        self._kinds[part] = kind
        self._heard.setdefault(part, []).append(text(told))
        yield TextDelta(part, told, kind)

    def _message(self, status: str, message: dict[str, Any]) -> Iterator[UpstreamEvent]:
        if message.get("role") != "assistant":
            return
        message_id = text(message["id"])
        if status in {"completed", "incomplete"}:
            self._messages[message_id] = message
        else:
            known = [part for key, part in self._parts.items() if key[0] == message_id]
            self._messages.setdefault(message_id, None)
            if any(part in self._heard for part in known):
                yield from self._again(message, known)

    def _again(self, message: dict[str, Any], known: Sequence[int]) -> Iterator[UpstreamEvent]:
        """Begin anew: a message that is created twice holds what it says, and no more."""
        self._messages[message["id"]] = None
        for part in known:
            self._heard.pop(part, None)
        yield Restarted()
        for part, texts in sorted(self._heard.items()):
            yield TextDelta(part, "".join(texts), self._kinds[part])
        for index, content in enumerate(message.get("content") or ()):
            yield from self._delta(message["id"], {**content, "index": index})


class Rereader:
    """Messages that are read again and again while they grow: what is new of them."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def news(self, messages: Sequence[dict[str, Any]]) -> Iterator[UpstreamEvent]:
        """Yield what was not told yet of a run's messages."""
        parts = content_of(messages)
        pairs = zip(parts, self._texts, strict=False)
        if len(parts) < len(self._texts) or not all(p.text.startswith(t) for p, t in pairs):
            self._texts = []
            yield Restarted()
        self._texts += [""] * (len(parts) - len(self._texts))
        for index, part in enumerate(parts):
            rest = part.text[len(self._texts[index]) :]
            self._texts[index] = part.text
            if rest:
                yield TextDelta(index, rest, part.kind)


def ended(run: dict[str, Any], messages: Sequence[dict[str, Any]], tail: Tail) -> Ended:
    """Return how a run that goes on no longer did so, and what it said after a thread's tail."""
    status, code, retryable = STATUSES[run["status"]], None, False
    if status is RunStatus.FAILED:
        code, retryable = of_response(run.get("last_error"))
    reason = None
    if status is RunStatus.INCOMPLETE:
        reason = _reason(run, messages)
    is_waiting = status is RunStatus.REQUIRES_ACTION
    last: dict[str, Any] = messages[-1] if messages else {}
    newest = ident(last["id"]) if messages else tail.message_id if is_waiting else ""
    end = Tail(ident(run["id"]), newest, len(last.get("content") or ()), digest_of(run))
    return Ended(
        status=status,
        content=content_of(tail.fresh(messages)),
        # Of all its rounds: it is told at the end of the last.
        usage=None if is_waiting else _usage(run.get("usage")),
        tail=str(end),
        tool_calls=_tool_calls(run) if is_waiting else (),
        incomplete_reason=reason,
        error_code=code,
        retryable=retryable,
    )


def _reason(run: dict[str, Any], messages: Sequence[dict[str, Any]]) -> str | None:
    """Return why an answer is incomplete; only its message knows of a filter."""
    why = [_details(message) for message in messages]
    if "content_filter" in why:
        return "content_filter"
    found = _details(run) or next(filter(None, why), None)
    return None if found is None else _REASONS.get(found, found)


def _details(item: dict[str, Any]) -> str | None:
    details: dict[str, Any] = item.get("incomplete_details") or {}
    reason = details.get("reason")
    return None if reason is None else name(reason)


def content_of(messages: Sequence[dict[str, Any]]) -> list[Part]:
    """Return the parts of what a run said, in order."""
    found = [_said(content) for message in messages for content in message.get("content") or ()]
    return [part for part in found if part is not None]


def _said(content: dict[str, Any]) -> Part | None:
    """Read a part of a message."""
    if content["type"] == "text":
        told: dict[str, Any] = content.get("text") or {}
        notes = tuple(_note(note) for note in told.get("annotations") or ())
        return Part(text(told.get("value") or ""), PartKind.TEXT, notes)
    if content["type"] == "refusal":
        return Part(text(content.get("refusal") or ""), PartKind.REFUSAL)
    return None


def _note(note: dict[str, Any]) -> dict[str, Any]:
    """Write a citation as it is kept here: what it cites beside where it stands."""
    cited: dict[str, Any] = note.get(note["type"]) or {}
    kept = ("type", "text", "start_index", "end_index")
    found = {key: note[key] for key in kept if key in note} | {"file_id": cited.get("file_id")}
    return dict(clean_json(found))


def _tool_calls(run: dict[str, Any]) -> list[ToolCall]:
    return [
        ToolCall(
            name(call["id"]), name(call["function"]["name"]), name(call["function"]["arguments"])
        )
        for call in calls_of(run)
    ]


def _usage(usage: dict[str, Any] | None) -> Usage | None:
    if not usage:
        return None
    counts = [usage[key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")]
    if not all(isinstance(count, int) for count in counts):
        raise TypeError
    return Usage(*counts)
