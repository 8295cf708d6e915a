"""Conversations that were held elsewhere become sessions here, each once and whole."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from app.domain.errors import NotFoundError, StorageUnavailableError
from app.domain.events import Delta, Draft, MessageRetold
from app.domain.history import PastThread
from app.domain.models import Assistant, Principal, TutoringSession, User
from app.ports import Append, Database, Imported, UnitOfWork
from app.services.retelling import retell

AWAY_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""A restart of Postgres is waited for; an import may be started again at any time."""
MAX_DRAFTS: Final = 500
MAX_CHARS: Final = 500_000
"""Of one statement: a long conversation is written in several, of one transaction."""


class Fate(StrEnum):
    """What became of a conversation."""

    TAKEN = "taken"
    UNCHANGED = "unchanged"
    """It was taken before, as it is."""
    CHANGED = "changed"
    """It was taken before, and its source has changed since: what is new there is not taken."""
    DELETED = "deleted"
    """It was taken before, and its session was deleted here: it stays deleted."""
    FOREIGN = "foreign"
    """It was taken before, for somebody else."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a conversation, and where it is."""

    fate: Fate
    session_id: str


@dataclass(frozen=True, slots=True)
class Tutors:
    """Which assistant answers for which of the source's."""

    other: str | None = None
    """For those that are not mapped; None is the default one."""
    mapped: Mapping[str, str] = field(default_factory=dict[str, str])


class _UndoneError(Exception):
    """Takes a transaction back."""


class ImportService:
    """Takes conversations, whoever's they are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ready(self) -> None:
        """Raise when the database can't be written.

        Raises:
            StorageUnavailableError: It is away.
            SchemaBehindError: It is to be migrated first.
        """
        await self._database.check_ready()

    async def take(
        self, thread: PastThread, owner: Principal, tutors: Tutors, *, dry_run: bool
    ) -> Taken:
        """Make a session of a conversation, in one transaction; a dry run takes it back.

        Raises:
            NotFoundError: The owner may not use one of the assistants.
            StorageUnavailableError: The database is away for long.
        """
        was_tried = False
        for pause_s in (*AWAY_PAUSES_S, None):
            try:
                taken = await self._take(thread, owner, tutors, dry_run=dry_run)
            except StorageUnavailableError:
                if pause_s is None:
                    raise
                was_tried = True
                await asyncio.sleep(pause_s)
                continue
            if was_tried and taken.fate is Fate.UNCHANGED:
                # The commit whose outcome was unknown had come through.
                return Taken(Fate.TAKEN, taken.session_id)
            return taken
        raise StorageUnavailableError

    async def _take(
        self, thread: PastThread, owner: Principal, tutors: Tutors, *, dry_run: bool
    ) -> Taken:
        while True:
            taken: Taken | None = None
            with suppress(_UndoneError):
                async with self._database.transaction() as uow:
                    taken = await _taken(uow, thread, owner, tutors)
                    if taken is None or dry_run:
                        raise _UndoneError
            if taken is not None:
                return taken


async def _taken(
    uow: UnitOfWork, thread: PastThread, owner: Principal, tutors: Tutors
) -> Taken | None:
    """Return what became of it; None if another import takes it: the next look finds it."""
    user = User(await uow.users.resolve(owner), owner)
    known = await uow.imports.find(owner.tenant, thread.id)
    if known is not None:
        return Taken(_fate(known, thread, user), known.session_id)
    session = await _opened(uow, thread, user, tutors)
    is_ours = await uow.imports.add(owner.tenant, thread.id, user.id, session.id, thread.digest)
    return Taken(Fate.TAKEN, session.id) if is_ours else None


def _fate(known: Imported, thread: PastThread, user: User) -> Fate:
    if known.user_id != user.id:
        return Fate.FOREIGN
    if not known.is_here:
        return Fate.DELETED
    return Fate.UNCHANGED if known.digest == thread.digest else Fate.CHANGED


async def _opened(
    uow: UnitOfWork, thread: PastThread, user: User, tutors: Tutors
) -> TutoringSession:
    assistants = await _assistants(uow, thread, user, tutors)
    last = next(iter(thread.assistants()[::-1]), None)
    assistant = assistants[last if last in assistants else None]
    ages = [thread.created_at, *(m.created_at for m in thread.messages[:1])]
    session = await uow.sessions.add(
        user.id,
        assistant.id,
        None,
        thread.metadata,
        created_at=next((age for age in ages if age is not None), None),
    )
    for drafts in _pieces(retell(thread, session.id, assistants)):
        await uow.log.append([Append(session.id, drafts)])
    return session


async def _assistants(
    uow: UnitOfWork, thread: PastThread, user: User, tutors: Tutors
) -> dict[str | None, Assistant]:
    """Return whose runs they become, by the source's id; None names that of all others."""
    named = tutors.mapped.keys() & set(thread.assistants())
    other = tutors.other or (await uow.assistants.default()).id
    wanted: dict[str | None, str] = {None: other} | {old: tutors.mapped[old] for old in named}
    found: dict[str | None, Assistant] = {}
    for old, new in wanted.items():
        # Until the runs stand, nobody may delete the version that they name.
        assistant = await uow.assistants.get(user, new, lock="use")
        if assistant is None:
            raise NotFoundError("There is no such assistant.")
        found[old] = assistant
    return found


def _pieces(told: Iterator[list[Draft]]) -> Iterator[list[Draft]]:
    """Put together what one statement writes."""
    piece: list[Draft] = []
    chars = 0
    for drafts in told:
        piece += drafts
        chars += sum(_chars(draft) for draft in drafts)
        if len(piece) >= MAX_DRAFTS or chars >= MAX_CHARS:
            yield piece
            piece, chars = [], 0
    if piece:
        yield piece


def _chars(draft: Draft) -> int:
    if isinstance(draft, Delta):
        return sum(map(len, draft.texts))
    if isinstance(draft, MessageRetold):
        return sum(len(part.text) for part in draft.message.content)
    return 0
