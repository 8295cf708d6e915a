"""The append-only log of every session, and how it is written and read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from app.domain.events import Draft, Event
from app.domain.models import (
    Run,
)


@dataclass(slots=True)
class Append:
    """Drafts for one session's log, written whole or not at all.

    With a `fence`, they are written only while `run_id` is the session's active run under that
    very fence: a worker that lost its run writes nothing.
    """

    session_id: str
    drafts: list[Draft]
    run_id: str | None = None
    fence: int | None = None
    last_seq: int | None = None
    """Where the log ended when its writer last saw it; refused if that is no longer so.

    Spares a lock and a look: without it both come first."""
    new_fence: int | None = None
    """Set by a claim, which takes the run over from whoever held it."""
    response_id: str | None = None
    """The upstream's id of the generation, stored with the first events that it caused."""
    thread: "ThreadMark | None" = None
    """What the upstream thread holds after this."""
    stamped: list[Event] = field(default_factory=list[Event])
    """What the last try to write this appended, or would have."""


@dataclass(frozen=True, slots=True)
class ThreadMark:
    """How far the upstream thread holds the conversation."""

    thread_id: str | None
    """None: its content is in doubt; the next run opens a new one from the transcript."""
    turn: int
    """The last turn whose messages the thread holds."""
    tail: str | None
    """The upstream's id of its last item."""


class Cursor(NamedTuple):
    """A reader's place in one session's log."""

    session_id: str
    after: int


@dataclass(frozen=True, slots=True)
class LogState:
    """Where a session's log stands, and whether it can still be read from the start."""

    last_seq: int
    pruned_seq: int


class EventLog(Protocol):
    """The append-only log of every session."""

    async def append(self, appends: Sequence[Append]) -> list[Append]:
        """Write to many logs in one go; return those refused: by their fence, gone, or moved on.

        Inside a transaction only an append that says where its log ended can find it moved on.
        """
        ...

    async def held(self, session_ids: Sequence[str]) -> set[str]:
        """Lock those sessions that nobody else has locked; return the others."""
        ...

    async def is_written(self, append: Append) -> bool:
        """Tell whether an append whose commit was in doubt is in the log."""
        ...

    async def read(self, cursors: Sequence[Cursor], *, limit: int) -> list[Event]:
        """Return what follows each cursor, by session and `seq`, at most `limit` each."""
        ...

    async def read_run(self, run: Run, *, after: int, limit: int) -> list[Event]:
        """Return one run's events after `seq`, its question included, in order."""
        ...

    async def state(self, session_id: str) -> LogState:
        """Return where the log of a session that exists stands."""
        ...

    async def gone(self, session_ids: Sequence[str]) -> list[str]:
        """Return which of the sessions were deleted."""
        ...

    async def now(self) -> datetime:
        """Return the database's instant."""
        ...

    async def prune(self, *, older_than: timedelta, limit: int) -> int:
        """Delete the deltas of at most `limit` runs that ended that long ago; return how many."""
        ...
