"""Tutoring sessions: opened, listed, changed and deleted by their owner."""

from app.domain.errors import NotFoundError
from app.domain.models import JsonObject, TutoringSession, User
from app.ports import Database, Page, PageQuery, RequestKey, SessionChange, UnitOfWork
from app.services.idempotency import first_answer, keep_answer


async def owned(
    uow: UnitOfWork, user: User, session_id: str, *, for_update: bool = False
) -> TutoringSession:
    """Return the user's session.

    Raises:
        NotFoundError: There is none, or it is somebody else's.
    """
    session = await uow.sessions.get(user.id, session_id, for_update=for_update)
    if session is None:
        raise NotFoundError
    return session


class SessionService:
    """Tutoring sessions of one caller at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(
        self,
        user: User,
        *,
        assistant_id: str | None,
        title: str | None,
        metadata: JsonObject,
        request: RequestKey | None = None,
    ) -> JsonObject:
        """Open a session with an assistant, or the default one; return its body.

        Raises:
            NotFoundError: The user may not use such an assistant.
            IdempotencyKeyReusedError, RequestInFlightError: As `first_answer`.
        """
        async with self._database.transaction() as uow:
            if again := await first_answer(uow, user, request):
                return again
            if assistant_id is None:
                assistant = await uow.assistants.default()
            else:
                found = await uow.assistants.get(user, assistant_id)
                if found is None:
                    raise NotFoundError("There is no such assistant.")
                assistant = found
            made = await uow.sessions.add(user.id, assistant.id, title, metadata)
            return await keep_answer(uow, user, request, made.body(), session_id=made.id)

    async def list(self, user: User, page: PageQuery) -> Page[TutoringSession]:
        """Return the user's sessions by age."""
        async with self._database.snapshot() as uow:
            return await uow.sessions.list(user.id, page)

    async def get(self, user: User, session_id: str) -> TutoringSession:
        """Return one.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.snapshot() as uow:
            return await owned(uow, user, session_id)

    async def change(self, user: User, session_id: str, change: SessionChange) -> TutoringSession:
        """Change the title, the metadata, or end it.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.transaction() as uow:
            await owned(uow, user, session_id, for_update=True)
            return await uow.sessions.change(session_id, change)

    async def delete(self, user: User, session_id: str) -> None:
        """Delete it: gone at once for its user, its run fenced, its streams cut.

        Rows are purged when the upstream's copies are deleted.

        Raises:
            NotFoundError: There is none, or it is somebody else's.
        """
        async with self._database.transaction() as uow:
            await owned(uow, user, session_id, for_update=True)
            await uow.sessions.hide(session_id)
            uow.wake_readers(session_id)
            uow.wake_workers()
