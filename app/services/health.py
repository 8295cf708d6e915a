"""Whether this process can serve."""

from datetime import timedelta

from app.ports import Database

SEEN_WITHIN = timedelta(seconds=60)


class HealthService:
    """Readiness, as a load balancer asks for it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ready(self) -> int:
        """Return how many workers were seen lately, if the database and its schema are there.

        Raises:
            StorageUnavailableError: The database is away.
            SchemaBehindError: The schema is not the one that this version needs.
        """
        await self._database.check_ready()
        async with self._database.autocommit() as uow:
            return await uow.upkeep.workers_seen(SEEN_WITHIN)
