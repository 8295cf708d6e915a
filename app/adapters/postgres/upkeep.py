"""What must go, the copies of it upstream, and which workers live."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.driver import Driver
from app.adapters.postgres.tables import EventRow, SessionRow, UpstreamThreadRow, WorkerRow

_RETIRE_HIDDEN = """
UPDATE upstream_threads t SET retired_at = now() FROM sessions s
WHERE s.id = t.session_id AND s.deleted_at IS NOT NULL AND t.retired_at IS NULL
"""

WORKER_FORGOTTEN = timedelta(days=1)
"""A worker silent this long is dropped from the list."""


class PostgresUpkeep:
    """Upkeep, inside one transaction."""

    def __init__(self, connection: AsyncConnection, driver: Driver) -> None:
        self._connection = connection
        self._driver = driver

    async def threads_to_delete(self, limit: int) -> Sequence[str]:
        """Return upstream threads that no session will use again."""
        await self._driver.execute(_RETIRE_HIDDEN)
        query = (
            select(UpstreamThreadRow.thread_id)
            .where(
                UpstreamThreadRow.retired_at.is_not(None), UpstreamThreadRow.deleted_at.is_(None)
            )
            .order_by(UpstreamThreadRow.retired_at)
            .limit(limit)
        )
        return (await self._connection.execute(query)).scalars().all()

    async def thread_deleted(self, thread_id: str) -> None:
        """Record that the upstream deleted it."""
        await self._connection.execute(
            update(UpstreamThreadRow)
            .where(UpstreamThreadRow.thread_id == thread_id)
            .values(deleted_at=func.now())
        )

    async def purge(self, limit: int) -> int:
        """Delete rows of hidden sessions whose upstream copies are gone; return how many."""
        kept_upstream = select(UpstreamThreadRow.session_id).where(
            UpstreamThreadRow.deleted_at.is_(None)
        )
        gone = (
            select(SessionRow.id)
            .where(SessionRow.deleted_at.is_not(None), SessionRow.id.not_in(kept_upstream))
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        ids = (await self._connection.execute(gone)).scalars().all()
        await self._connection.execute(delete(EventRow).where(EventRow.session_id.in_(ids)))
        await self._connection.execute(delete(SessionRow).where(SessionRow.id.in_(ids)))
        return len(ids)

    async def beat(self, worker_id: str) -> None:
        """Record that a worker lives."""
        await self._connection.execute(
            postgresql.insert(WorkerRow)
            .values(id=worker_id)
            .on_conflict_do_update(index_elements=["id"], set_={"seen_at": func.now()})
        )
        await self._connection.execute(
            delete(WorkerRow).where(WorkerRow.seen_at < func.now() - WORKER_FORGOTTEN)
        )

    async def workers_seen(self, within: timedelta) -> int:
        """Count the workers seen lately."""
        query = select(func.count()).where(WorkerRow.seen_at > func.now() - within)
        return (await self._connection.execute(query)).scalar_one()
