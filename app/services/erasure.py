"""Deleting a user: at once here, and upstream as soon as the upstream allows."""

from dataclasses import dataclass

from app.domain.errors import NotFoundError
from app.ports import Database


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a user."""

    user_id: str
    sessions: int
    """Hidden, their runs fenced and their streams cut."""
    kept_upstream: int
    """Threads, generations and files that the upstream has yet to delete."""


class ErasureService:
    """What an operator does when somebody leaves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete_user(self, subject: str, tenant: str | None) -> Receipt:
        """Forget who a user was, and have all that is theirs deleted.

        Whoever comes with the same subject again is somebody new.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.transaction() as uow:
            user_id = await uow.users.find(subject, tenant)
            if user_id is None:
                raise NotFoundError("There is no such user.")
            sessions = await uow.users.erase(user_id)
            left = await uow.ledger.left(user_id)
            for session_id in sessions:
                uow.wake_readers(session_id)
            uow.wake_workers()
        return Receipt(user_id, len(sessions), left)
