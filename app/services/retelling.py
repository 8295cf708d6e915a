"""A conversation that was held elsewhere, as the events that it would have been here.

Each run goes from `run.queued` to its end, with its one answer between them: whatever a reader
makes of any session's log, it makes of this one. Only the instants are those of then.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from app.domain import ids
from app.domain.events import Delta, Draft, MessageRetold, RunRetold
from app.domain.history import PastMessage, PastRun, PastThread
from app.domain.models import (
    Assistant,
    Failure,
    JsonObject,
    Message,
    MessageStatus,
    Role,
    Run,
    RunStatus,
)

_WORDS: Final = {
    "run_timeout": "The answer took too long.",
    "run_unfinished": "The answer was not finished when the conversation was moved here.",
    "upstream_error": "The tutor could not answer.",
    "upstream_rate_limited": "The tutor is being asked too much at once.",
    "upstream_rejected": "The tutor could not take this request.",
}
_NEEDS_NO_START: Final = frozenset({RunStatus.CANCELLED, RunStatus.EXPIRED})
"""A run may come to these ends while it waits in the queue."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A message that was said without a run, or a run with the messages of its answer."""

    said: PastMessage | None = None
    run: PastRun | None = None
    answer: Sequence[PastMessage] = ()
    new_id: str = field(default_factory=lambda: ids.new_id(ids.RUN))
    """What the run is called here."""


def retell(
    thread: PastThread, session_id: str, assistants: Mapping[str | None, Assistant]
) -> Iterator[list[Draft]]:
    """Return the drafts of a whole log, in pieces of which none may be divided.

    Args:
        thread: What was said.
        session_id: The session that it becomes.
        assistants: By the source's id; None names the one of all others.
    """
    entries = list(_entries(thread))
    question: MessageRetold | None = None
    is_answered = False
    for index, entry in enumerate(entries):
        if entry.said is not None:
            following = entries[index + 1] if index + 1 < len(entries) else _Entry()
            is_question = entry.said.role is Role.USER
            # A run's stream begins with its question.
            run_id = following.new_id if following.run and is_question else None
            draft = MessageRetold(_message(entry.said, session_id), run_id=run_id, is_new=True)
            if is_question:
                question, is_answered = draft, False
            yield [draft]
        elif entry.run is not None:
            named = entry.run.assistant_id
            teller = _Teller(entry, session_id, assistants[named if named in assistants else None])
            yield teller.drafts(question, is_again=is_answered)
            is_answered = True


def _entries(thread: PastThread) -> Iterator[_Entry]:
    """Put runs among messages: where their answer begins, else where their instant is.

    Instants are whole seconds, so that runs also keep the order that they have among themselves.
    """
    answers: defaultdict[str, list[PastMessage]] = defaultdict(list)
    for message in thread.messages:
        if message.run_id is not None:
            answers[message.run_id].append(message)
    runs = {run.id: run for run in thread.runs}
    places = {run.id: place for place, run in enumerate(thread.runs)}
    silent = [run for run in reversed(thread.runs) if run.id not in answers]
    for message in thread.messages:
        run_id = message.run_id
        if run_id is not None and run_id not in answers:
            continue
        while silent and _is_before(silent[-1], message, places):
            yield _Entry(run=silent.pop())
        if run_id is None:
            yield _Entry(said=message)
            continue
        answer = answers.pop(run_id)
        yield _Entry(run=runs.get(run_id) or _supposed(run_id, answer), answer=answer)
    yield from (_Entry(run=run) for run in reversed(silent))


def _is_before(run: PastRun, message: PastMessage, places: Mapping[str, int]) -> bool:
    other = None if message.run_id is None else places.get(message.run_id)
    if other is not None:
        return places[run.id] < other
    return run.created_at < message.created_at


def _supposed(run_id: str, answer: Sequence[PastMessage]) -> PastRun:
    """Return the run of an answer whose own record is missing: what the answer tells of it."""
    is_whole = all(message.status is MessageStatus.COMPLETED for message in answer)
    return PastRun(
        id=run_id,
        status=RunStatus.COMPLETED if is_whole else RunStatus.INCOMPLETE,
        metadata={},
        created_at=answer[0].created_at,
        assistant_id=answer[0].assistant_id,
        ended_at=answer[-1].completed_at,
    )


def _message(said: PastMessage, session_id: str) -> Message:
    return Message(
        id=ids.new_id(ids.MESSAGE),
        session_id=session_id,
        run_id=None,
        role=said.role,
        status=said.status,
        content=said.content,
        metadata=said.metadata,
        created_at=said.created_at,
        completed_at=said.completed_at,
    )


class _Teller:
    """Tells one run."""

    def __init__(self, entry: _Entry, session_id: str, assistant: Assistant) -> None:
        if entry.run is None:
            raise LookupError("an entry without a run")
        self._past, self._said, self._run_id = entry.run, entry.answer, entry.new_id
        self._session_id = session_id
        self._assistant = assistant

    def drafts(self, question: MessageRetold | None, *, is_again: bool) -> list[Draft]:
        """Return all of it; `is_again` if another run has answered the question already."""
        past = self._past
        queued = RunRetold(self._queued(question), turn_of=None if is_again else question)
        told: list[Draft] = [queued]
        started_at = past.started_at
        if started_at is not None or self._said or past.status not in _NEEDS_NO_START:
            started_at = started_at or past.created_at
            begun = replace(queued.run, status=RunStatus.IN_PROGRESS, started_at=started_at)
            told.append(RunRetold(begun, queued=queued))
        answer, drafts = self._answer()
        told += drafts
        ended = replace(
            queued.run,
            status=past.status,
            output_message_id=None if answer is None else answer.id,
            last_error=self._failure(),
            incomplete_reason=self._incomplete_reason(),
            usage=past.usage,
            started_at=started_at,
            ended_at=self._ended_at(),
        )
        told.append(RunRetold(ended, queued=queued))
        return told

    def _queued(self, question: MessageRetold | None) -> Run:
        return Run(
            id=self._run_id,
            session_id=self._session_id,
            assistant_id=self._assistant.id,
            assistant_version=self._assistant.version,
            model=self._past.model or self._assistant.config.model,
            status=RunStatus.QUEUED,
            # Nothing was asked for from here.
            attempts=0,
            input_message_id=None if question is None else question.message.id,
            output_message_id=None,
            metadata=self._past.metadata,
            created_at=self._past.created_at,
        )

    def _answer(self) -> tuple[Message | None, list[Draft]]:
        """Return the one message that all of the run's become, and how it was written."""
        is_whole = self._past.status is RunStatus.COMPLETED
        if not self._said and not is_whole:
            return None, []
        created_at = self._said[0].created_at if self._said else self._ended_at()
        opened = MessageRetold(
            Message(
                id=ids.new_id(ids.MESSAGE),
                session_id=self._session_id,
                run_id=self._run_id,
                role=Role.ASSISTANT,
                status=MessageStatus.IN_PROGRESS,
                content=(),
                metadata={},
                created_at=created_at,
            ),
            run_id=self._run_id,
            is_new=True,
        )
        is_whole = is_whole or all(m.status is MessageStatus.COMPLETED for m in self._said)
        answer = replace(
            opened.message,
            status=MessageStatus.COMPLETED if is_whole else MessageStatus.INCOMPLETE,
            content=[part for message in self._said for part in message.content],
            metadata=_merged(self._said),
            completed_at=max((m.completed_at for m in self._said), default=created_at),
        )
        deltas = [
            Delta(answer.id, self._run_id, index, [part.text])
            for index, part in enumerate(answer.content)
            if part.text
        ]
        ended = MessageRetold(answer, run_id=self._run_id, opened=opened)
        return answer, [opened, *deltas, ended]

    def _ended_at(self) -> datetime:
        past = self._past
        spoken = [message.completed_at for message in self._said]
        known = [past.created_at, past.started_at, *spoken]
        return past.ended_at or max(instant for instant in known if instant is not None)

    def _failure(self) -> Failure | None:
        code = self._past.error_code
        if code is None and self._past.status is RunStatus.EXPIRED:
            code = "run_timeout"
        if code is None or self._past.status is RunStatus.CANCELLED:
            return None
        return Failure(code, _WORDS[code])

    def _incomplete_reason(self) -> str | None:
        if self._past.status is not RunStatus.INCOMPLETE:
            return None
        told = [self._past.incomplete_reason, *(m.incomplete_reason for m in self._said)]
        return next((reason for reason in told if reason is not None), "unknown")


def _merged(messages: Sequence[PastMessage]) -> JsonObject:
    """Return what all of them note; where two note the same, the first of them is right."""
    merged: JsonObject = {}
    for message in messages:
        merged = {**message.metadata, **merged}
    return merged
