"""What must go here, and which workers live."""

from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.driver import Driver
from app.adapters.postgres.kept_tables import UpstreamObjectRow
from app.adapters.postgres.tables import (
    EventRow,
    SessionRow,
    UpstreamThreadRow,
    WorkerRow,
)

# A process may take a deleted user for present for as long as it remembers ids: what it made
# meanwhile goes too, and the row itself only after that time.
_HIDE_LATE_SESSIONS = """
UPDATE sessions s SET deleted_at = now(), fence = fence + 1, title = NULL, meta = '{}'
FROM users u WHERE u.id = s.user_id AND u.deleted_at IS NOT NULL AND s.deleted_at IS NULL
"""

_REMOVE_LATE_FILES = """
WITH gone AS (
    DELETE FROM files f USING users u
    WHERE u.id = f.user_id AND u.deleted_at IS NOT NULL RETURNING f.id
)
UPDATE upstream_objects SET retired_at = now(), retry_at = now()
WHERE kind = 'file' AND name IN (SELECT id FROM gone) AND retired_at IS NULL
"""

_REMOVE_LATE_STORES = """
WITH gone AS (
    DELETE FROM vector_stores v USING users u
    WHERE u.id = v.user_id AND u.deleted_at IS NOT NULL RETURNING v.id
)
UPDATE upstream_objects SET retired_at = now(), retry_at = now()
WHERE kind = 'vector_store' AND name IN (SELECT id FROM gone) AND retired_at IS NULL
"""

_REMOVE_ASSISTANTS = """
DELETE FROM assistants a USING users u
WHERE u.id = a.owner_id AND u.deleted_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM sessions s WHERE s.assistant_id = a.id)
    AND NOT EXISTS (SELECT FROM runs r WHERE r.assistant_id = a.id)
"""

_PURGE_USERS = """
DELETE FROM users u
WHERE u.deleted_at < now() - interval '1 hour'
    AND NOT EXISTS (SELECT FROM sessions s WHERE s.user_id = u.id)
    AND NOT EXISTS (SELECT FROM files f WHERE f.user_id = u.id)
    AND NOT EXISTS (SELECT FROM vector_stores v WHERE v.user_id = u.id)
    AND NOT EXISTS (SELECT FROM assistants a WHERE a.owner_id = u.id)
    AND NOT EXISTS (
        SELECT FROM upstream_objects o WHERE o.user_id = u.id AND o.deleted_at IS NULL)
"""

WORKER_FORGOTTEN = timedelta(days=1)
"""A worker silent this long is dropped from the list."""


class PostgresUpkeep:
    """Upkeep, inside one transaction."""

    def __init__(self, connection: AsyncConnection, driver: Driver) -> None:
        self._connection = connection
        self._driver = driver

    async def purge(self, limit: int) -> int:
        """Delete rows of hidden sessions whose upstream copies are gone; return how many."""
        threads = exists().where(
            UpstreamThreadRow.session_id == SessionRow.id, UpstreamThreadRow.deleted_at.is_(None)
        )
        others = exists().where(
            UpstreamObjectRow.session_id == SessionRow.id, UpstreamObjectRow.deleted_at.is_(None)
        )
        gone = (
            select(SessionRow.id)
            .where(SessionRow.deleted_at.is_not(None), ~threads, ~others)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        ids = (await self._connection.execute(gone)).scalars().all()
        await self._connection.execute(delete(EventRow).where(EventRow.session_id.in_(ids)))
        await self._connection.execute(delete(SessionRow).where(SessionRow.id.in_(ids)))
        return len(ids)

    async def purge_users(self) -> int:
        """Delete what deleted users left behind, and their rows last; return how many went."""
        for statement in (
            _HIDE_LATE_SESSIONS,
            _REMOVE_LATE_STORES,
            _REMOVE_LATE_FILES,
            _REMOVE_ASSISTANTS,
        ):
            await self._driver.execute(statement)
        result = await self._driver.execute(_PURGE_USERS)
        return int(result.rpartition(" ")[2])

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
