"""Transactions, and the wake-ups that follow them."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Literal, Protocol

from app.ports.files import Files, Ledger
from app.ports.imports import Imports
from app.ports.log import EventLog
from app.ports.queue import Queue, Upkeep
from app.ports.records import (
    Answers,
    Assistants,
    Messages,
    Runs,
    Sessions,
    Tickets,
    Users,
)
from app.ports.stores import Stores
from app.ports.upstream import Tutors


class UnitOfWork(Protocol):
    """One transaction, and the repositories inside it."""

    @property
    def users(self) -> Users: ...  # noqa: D102 - named by its type
    @property
    def assistants(self) -> Assistants: ...  # noqa: D102 - named by its type
    @property
    def sessions(self) -> Sessions: ...  # noqa: D102 - named by its type
    @property
    def messages(self) -> Messages: ...  # noqa: D102 - named by its type
    @property
    def runs(self) -> Runs: ...  # noqa: D102 - named by its type
    @property
    def log(self) -> EventLog: ...  # noqa: D102 - named by its type
    @property
    def queue(self) -> Queue: ...  # noqa: D102 - named by its type
    @property
    def upkeep(self) -> Upkeep: ...  # noqa: D102 - named by its type
    @property
    def tutors(self) -> Tutors: ...  # noqa: D102 - named by its type
    @property
    def answers(self) -> Answers: ...  # noqa: D102 - named by its type
    @property
    def tickets(self) -> Tickets: ...  # noqa: D102 - named by its type
    @property
    def imports(self) -> Imports: ...  # noqa: D102 - named by its type
    @property
    def files(self) -> Files: ...  # noqa: D102 - named by its type
    @property
    def ledger(self) -> Ledger: ...  # noqa: D102 - named by its type
    @property
    def stores(self) -> Stores: ...  # noqa: D102 - named by its type

    def wake_workers(self, *, new_run: bool = False) -> None:
        """After the commit: a run waits, or else anything may have changed for a worker."""
        ...

    def wake_readers(self, session_id: str) -> None:
        """After the commit: the session changed without an event (appends wake by themselves)."""
        ...


class Database(Protocol):
    """Where all of it lives."""

    def transaction(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Begin; commit at the end of the block; then tell readers and workers."""
        ...

    def autocommit(self, *, writes: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """Let each statement be a transaction of its own; then tell readers and workers.

        Behind a pooler only a transaction bounds how long a lock is waited for: there, what is
        said to be `writes` is one.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """Read one consistent state, in a read-only transaction."""
        ...

    async def check_ready(self) -> None:
        """Raise `StorageUnavailableError` or `SchemaBehindError` when it can't serve."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


Wake = Sequence[str] | None
"""What changed: ids, or None for 'anything may have'."""


class WakeUps(Protocol):
    """One listening connection of a process."""

    def listen(self, channel: Literal["events", "work"]) -> AbstractAsyncContextManager["Wakes"]:
        """Receive a channel's wake-ups while the block lasts, lost connections included."""
        ...


class Wakes(Protocol):
    """Wake-ups of one channel, those that came meanwhile merged into one."""

    def add(self, ids: Wake) -> None:
        """Wake the listener from within this process."""
        ...

    async def next(self, *, within: timedelta) -> Wake:
        """Wait for one; None also when the time is up or the connection was lost."""
        ...
