"""The book of upstream tutors, for an adapter to use while the database may be away."""

from collections.abc import Sequence

from app.ports import Database
from app.services.patience import patiently


class TutorBook:
    """Satisfies `ports.Tutors` with a transaction for each call; each may be done twice."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, digest: str) -> str | None:
        """Return the upstream's id for a configuration, if it has one; note that it is used."""

        async def find() -> str | None:
            async with self._database.autocommit(writes=True) as uow:
                return await uow.tutors.find(digest)

        return await patiently(find)

    async def add(self, digest: str, tutor_id: str) -> str:
        """Record a new one; return the one to use: another worker's may have been first."""

        async def add() -> str:
            async with self._database.autocommit(writes=True) as uow:
                return await uow.tutors.add(digest, tutor_id)

        return await patiently(add)

    async def unused(self, limit: int) -> Sequence[str]:
        """Return those that are not needed upstream any more; they are not found again."""

        async def unused() -> Sequence[str]:
            async with self._database.autocommit(writes=True) as uow:
                return await uow.tutors.unused(limit)

        return await patiently(unused)

    async def remove(self, tutor_id: str) -> None:
        """Record that the upstream has it no more."""

        async def remove() -> None:
            async with self._database.autocommit(writes=True) as uow:
                await uow.tutors.remove(tutor_id)

        await patiently(remove)
