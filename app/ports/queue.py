"""The life of a run in the queue, and what must be cleared away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from app.domain.models import (
    Run,
    RunStatus,
)


@dataclass(frozen=True, slots=True)
class Thread:
    """What is known of a session's upstream thread."""

    thread_id: str | None
    turn: int
    tail: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that a worker holds."""

    run: Run
    fence: int
    last_seq: int
    """Where the session's log ends."""
    thread: Thread
    response_id: str | None
    """The generation that an earlier holder began, if it got that far."""
    is_takeover: bool
    """Whether an earlier holder may have asked the upstream already, in this round."""
    handovers: int
    """How often a holder gave the run back in order, which costs it no attempt."""
    remaining: timedelta
    """Time left until `expires_at`, by the database's clock."""
    safety_id: str
    """Who asks, in a form that can be shown to the upstream."""
    user_id: str = ""
    """Whose session it is."""


class Queue(Protocol):
    """The life of a run in the queue. All instants are the database's."""

    async def lease_queued(
        self, worker_id: str, *, lease: timedelta, lifetime: timedelta, limit: int
    ) -> Sequence[Claim]:
        """Lock and lease the oldest runs that wait.

        They wait in sessions without an active run, or are it, with what their tools returned.
        """
        ...

    async def lease_abandoned(
        self, worker_id: str, *, lease: timedelta, limit: int, reap: bool, held: Sequence[str]
    ) -> Sequence[Claim]:
        """Lock and lease active runs that were handed over or, with `reap`, fell silent."""
        ...

    async def heartbeat(
        self, worker_id: str, run_ids: Sequence[str], *, lease: timedelta
    ) -> Mapping[str, RunStatus]:
        """Renew leases, even such as ran out; return what the worker still holds."""
        ...

    async def held(self, worker_id: str, run_ids: Sequence[str]) -> Mapping[str, RunStatus]:
        """Return what the worker holds, as `heartbeat` does, and write nothing."""
        ...

    async def count_attempt(self, run_id: str, worker_id: str) -> int | None:
        """Record that another generation is about to be asked for; None when fenced."""
        ...

    async def open_thread(self, claim: Claim, thread: Thread) -> bool:
        """Record a new upstream thread, and the old one as given up; False when fenced."""
        ...

    async def is_held(self, claim: Claim) -> bool:
        """Tell whether the run is still the session's active one under the claim's fence."""
        ...

    async def hand_over(self, worker_id: str, run_ids: Sequence[str]) -> int:
        """Give leases up, resumable by others at once; return how many."""
        ...

    async def overdue(self, *, queue_limit: timedelta, limit: int) -> Sequence[Run]:
        """Lock runs without a lease whose time is up: in the queue, or waiting for tools."""
        ...


class Upkeep(Protocol):
    """What must go here, once the upstream's copies are gone."""

    async def purge(self, limit: int) -> int:
        """Delete rows of hidden sessions whose upstream copies are gone; return how many."""
        ...

    async def purge_users(self) -> int:
        """Delete what deleted users left behind, and their rows last; return how many went."""
        ...

    async def beat(self, worker_id: str) -> None:
        """Record that a worker lives."""
        ...

    async def workers_seen(self, within: timedelta) -> int:
        """Count the workers seen lately."""
        ...
