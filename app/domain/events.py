"""The session's log: what may be appended to it, and the exact text that is stored and sent.

A draft is an event that has no place yet. `stamp` gives it its `seq` and instant, once the
session's row is locked, and returns the event's `data`. A draft that carries a message or a run
is also the write of that message's or run's row: log and rows cannot disagree, because there is
no other way to change either.
"""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from app.domain.models import JsonObject, Message, MessageStatus, Run, RunStatus
from app.domain.steps import RunStep, StepStatus
from app.domain.text import rfc3339

RUN_END_TYPES: Final = frozenset(f"run.{status}" for status in RunStatus if status.is_end)


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Made once: `json.dumps` makes an encoder for each value that is not written as by default."""


def dump(value: object) -> str:
    """Write compact JSON, in the characters that it means."""
    return _encode(value)


@dataclass(slots=True)
class Delta:
    """More text of one part of the answer that is being written."""

    message_id: str
    run_id: str
    part: int
    texts: list[str]
    """Joined when stamped: deltas of one part that wait for the same commit are one event."""

    type = "message.delta"

    def stamp(self, session_id: str, seq: int, at: datetime) -> str:
        """Return the event's data."""
        # Every token passes here: one formatted string instead of a dictionary and its encoder.
        return (
            f'{{"type":"message.delta","session_id":"{session_id}","seq":{seq},'
            f'"at":"{rfc3339(at)}","message_id":"{self.message_id}","run_id":"{self.run_id}",'
            f'"part":{self.part},"text":{dump("".join(self.texts))}}}'
        )


@dataclass(slots=True)
class Withdrawal:
    """What was shown of an answer from a part on is withdrawn: a repeated attempt starts again."""

    message_id: str
    run_id: str
    from_part: int
    reason: str

    type = "message.reset"

    def stamp(self, session_id: str, seq: int, at: datetime) -> str:
        """Return the event's data."""
        return _data(
            self.type,
            session_id,
            seq,
            at,
            {
                "message_id": self.message_id,
                "run_id": self.run_id,
                "from_part": self.from_part,
                "reason": self.reason,
            },
        )


@dataclass(slots=True)
class StepChanged:
    """What the tutor is doing meanwhile."""

    step: RunStep
    is_new: bool = False
    opened: "StepChanged | None" = field(default=None, repr=False)
    """With a later change: the one that was drafted first, and gives the step its place."""

    type = "run.step"

    @property
    def run_id(self) -> str:
        """The run that takes the step."""
        return self.step.run_id

    def stamp(self, session_id: str, seq: int, at: datetime) -> str:
        """Set the step's place and instants; return the event's data."""
        step = self.step
        if self.is_new:
            step = replace(step, seq=seq, begun_at=at)
        elif self.opened is not None:
            first = self.opened.step
            step = replace(step, seq=first.seq, begun_at=first.begun_at)
        if step.status is not StepStatus.IN_PROGRESS:
            step = replace(step, ended_at=at)
        self.step = step
        told = {"run_id": self.run_id, "step": step.body()}
        return _data(self.type, session_id, seq, at, told)


@dataclass(slots=True)
class MessageChanged:
    """A message appears, or ends."""

    message: Message
    run_id: str | None
    """The run whose stream shows it; a user's message belongs to no run, yet to its stream."""
    is_new: bool = False
    opened: "MessageChanged | None" = field(default=None, repr=False)
    """With an end: the `message.created` that was drafted before it, and gives its place."""

    @property
    def type(self) -> str:
        """`message.created`, or the end that it reached."""
        return "message.created" if self.is_new else f"message.{self.message.status}"

    def stamp(self, session_id: str, seq: int, at: datetime) -> str:
        """Set the message's place and instants; return the event's data."""
        message = self.message
        if self.is_new:
            message = replace(message, seq=seq, turn=message.turn or seq, created_at=at)
        elif self.opened is not None:
            first = self.opened.message
            message = replace(message, seq=first.seq, created_at=first.created_at)
        if message.status is not MessageStatus.IN_PROGRESS:
            message = replace(message, completed_at=at)
        self.message = message
        return _data(self.type, session_id, seq, at, {"message": message.body()})


@dataclass(slots=True)
class RunChanged:
    """A run reached a status."""

    run: Run
    lifetime: timedelta | None = None
    """With `in_progress`, at the first claim: how long the run may take from this instant."""
    turn_of: MessageChanged | None = field(default=None, repr=False)
    """With `queued`: the question stamped before it, whose place the run takes."""

    @property
    def type(self) -> str:
        """One type per status."""
        return f"run.{self.run.status}"

    @property
    def run_id(self) -> str:
        """The run whose stream shows it."""
        return self.run.id

    @property
    def is_new(self) -> bool:
        """Whether the run has no row yet; one that was begun waits in the queue once more."""
        return self.run.status is RunStatus.QUEUED and self.run.started_at is None

    def stamp(self, session_id: str, seq: int, at: datetime) -> str:
        """Set the run's place and instants; return the event's data."""
        run = self.run
        if self.is_new:
            turn = self.turn_of.message.turn if self.turn_of else seq
            run = replace(run, seq=seq, turn=turn, created_at=at)
        elif run.status.is_end:
            run = replace(run, ended_at=at, expires_at=None)
        elif self.lifetime is not None:
            run = replace(run, started_at=at, expires_at=at + self.lifetime)
        self.run = run
        return _data(self.type, session_id, seq, at, {"run": run.body()})


@dataclass(slots=True)
class MessageRetold(MessageChanged):
    """A message of a conversation that was held elsewhere: its instants are those of then."""

    def stamp(self, session_id: str, seq: int, at: datetime) -> str:
        """Set the message's place; return the event's data."""
        place = seq if self.opened is None else self.opened.message.seq
        self.message = replace(self.message, seq=place, turn=place)
        return _data(self.type, session_id, seq, at, {"message": self.message.body()})


@dataclass(slots=True)
class RunRetold(RunChanged):
    """A run's status in a conversation that was held elsewhere: its instants are those of then."""

    queued: "RunRetold | None" = field(default=None, repr=False)
    """With a later status: the `run.queued` that was drafted before it, and gives its place."""

    def stamp(self, session_id: str, seq: int, at: datetime) -> str:
        """Set the run's place; return the event's data."""
        place = turn = seq
        if self.queued is not None:
            place, turn = self.queued.run.seq, self.queued.run.turn
        elif self.turn_of is not None:
            turn = self.turn_of.message.turn
        self.run = replace(self.run, seq=place, turn=turn)
        return _data(self.type, session_id, seq, at, {"run": self.run.body()})


Draft = Delta | Withdrawal | StepChanged | MessageChanged | RunChanged


class Event(NamedTuple):
    """One entry of a session's log, as it is stored and sent."""

    session_id: str
    seq: int
    type: str
    run_id: str | None
    data: str

    def block(self) -> bytes:
        """Encode as one server-sent event: `id`, `event`, `data`.

        JSON escapes CR and LF inside strings, so the data is always one line.
        """
        return f"id: {self.seq}\nevent: {self.type}\ndata: {self.data}\n\n".encode()

    def done(self) -> bytes:
        """Encode the end of a run's stream, after the event that ends the run."""
        return done_block(self.session_id, self.seq, json.loads(self.data)["at"])


def done_block(session_id: str, seq: int, at: str) -> bytes:
    """Encode the end of a run's stream: the place and the instant are those of the run's end.

    It is not in the log and has no id: no cursor ever stands on it.
    """
    data = {"type": "done", "session_id": session_id, "seq": seq, "at": at}
    return f"event: done\ndata: {dump(data)}\n\n".encode()


def snapshot_data(
    session_id: str, seq: int, at: datetime, messages: list[JsonObject], run: JsonObject | None
) -> str:
    """Return the data of a `reset`: where a reader stands whose cursor leads nowhere."""
    return _data("reset", session_id, seq, at, {"messages": messages, "run": run})


def _data(type_: str, session_id: str, seq: int, at: datetime, rest: JsonObject) -> str:
    head = {"type": type_, "session_id": session_id, "seq": seq, "at": rfc3339(at)}
    return dump(head | rest)
