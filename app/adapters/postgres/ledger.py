"""The ledger of what is kept upstream: threads in their own table, all else in another.

Both are one here. `due` leases what it returns by moving its next time on, so that two workers do
not delete the same, and what fails is tried again later and later.
"""

from collections.abc import Sequence

from app.adapters.postgres.driver import Driver
from app.ports import Kept, KeptKind

_ENTER = """
INSERT INTO upstream_objects (kind, name, user_id, session_id) VALUES ($1, $2, $3, $4)
"""

_MADE = """
UPDATE upstream_objects SET upstream_id = $3
WHERE kind = $1 AND name = $2 AND retired_at IS NULL
"""

# One whose id was never heard may still be on its way: it is looked for a little later.
_RETIRE = """
UPDATE upstream_objects
SET retired_at = coalesce(retired_at, now()), deleted_at = NULL,
    upstream_id = coalesce($3, upstream_id),
    retry_at = now() + CASE
        WHEN coalesce($3, upstream_id) IS NULL THEN interval '5 seconds' ELSE interval '0' END
WHERE kind = $1 AND name = $2
"""

_RETIRE_HIDDEN_THREADS = """
UPDATE upstream_threads t SET retired_at = now() FROM sessions s
WHERE s.id = t.session_id AND s.deleted_at IS NOT NULL AND t.retired_at IS NULL
"""

_RETIRE_HIDDEN = """
UPDATE upstream_objects o SET retired_at = now() FROM sessions s
WHERE s.id = o.session_id AND s.deleted_at IS NOT NULL
    AND o.retired_at IS NULL AND o.deleted_at IS NULL
"""

# What was said in a thread that was given up stands in its generations too.
_RETIRE_RESPONSES = """
UPDATE upstream_objects o SET retired_at = now() FROM upstream_threads t
WHERE t.retired_at IS NOT NULL AND t.deleted_at IS NULL
    AND o.session_id = t.session_id AND o.kind = 'response' AND o.opened_at < t.retired_at
    AND o.retired_at IS NULL AND o.deleted_at IS NULL
"""

# Whoever was at it died without a word; no upload takes so long.
_RETIRE_ABANDONED = """
UPDATE upstream_objects SET retired_at = now(), retry_at = now()
WHERE upstream_id IS NULL AND retired_at IS NULL AND opened_at < now() - interval '1 hour'
"""

_AGAIN = """
now() + (0.75 + random() / 2)
    * least(interval '1 hour', interval '2 seconds' * power(2, least(attempts, 12)))
"""

_DUE_THREADS = f"""
UPDATE upstream_threads SET attempts = attempts + 1, retry_at = {_AGAIN}
WHERE thread_id IN (
    SELECT thread_id FROM upstream_threads
    WHERE retired_at IS NOT NULL AND deleted_at IS NULL
        AND coalesce(retry_at, '-infinity') <= now()
    ORDER BY retry_at NULLS FIRST, retired_at LIMIT $1
    FOR UPDATE SKIP LOCKED)
RETURNING 'thread', thread_id, thread_id, opened_at
"""  # noqa: S608 - our own text

_DUE = f"""
UPDATE upstream_objects SET attempts = attempts + 1, retry_at = {_AGAIN}
WHERE (kind, name) IN (
    SELECT kind, name FROM upstream_objects
    WHERE retired_at IS NOT NULL AND deleted_at IS NULL AND retry_at <= now()
    ORDER BY retry_at LIMIT $1
    FOR UPDATE SKIP LOCKED)
RETURNING kind, name, upstream_id, opened_at
"""  # noqa: S608 - our own text

_DELETED_THREAD = "UPDATE upstream_threads SET deleted_at = now() WHERE thread_id = $1"

# An id that came meanwhile is another thing to delete.
_DELETED = """
UPDATE upstream_objects SET deleted_at = now()
WHERE kind = $1 AND name = $2 AND upstream_id IS NOT DISTINCT FROM $3
"""

_LEFT = """
SELECT (SELECT count(*) FROM upstream_objects WHERE user_id = $1 AND deleted_at IS NULL)
    + (SELECT count(*) FROM upstream_threads t JOIN sessions s ON s.id = t.session_id
       WHERE s.user_id = $1 AND t.deleted_at IS NULL)
"""


class PostgresLedger:
    """The ledger, inside one transaction."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def enter(
        self, kind: KeptKind, name: str, *, user_id: str, session_id: str | None = None
    ) -> None:
        """Write down what is about to be made; without an end it is retired after an hour."""
        await self._driver.execute(_ENTER, kind.value, name, user_id, session_id)

    async def made(self, kind: KeptKind, name: str, upstream_id: str) -> bool:
        """Write down the upstream's id; False if the entry was retired meanwhile."""
        result = await self._driver.execute(_MADE, kind.value, name, upstream_id)
        return result.endswith(" 1")

    async def retire(self, kind: KeptKind, name: str, upstream_id: str | None = None) -> None:
        """Have it deleted; with an id if it came after all."""
        await self._driver.execute(_RETIRE, kind.value, name, upstream_id)

    async def due(self, limit: int) -> Sequence[Kept]:
        """Return what is to be deleted now; it is not due again before its time has doubled."""
        for statement in (
            _RETIRE_HIDDEN_THREADS,
            _RETIRE_HIDDEN,
            _RETIRE_RESPONSES,
            _RETIRE_ABANDONED,
        ):
            await self._driver.execute(statement)
        rows = [
            *await self._driver.fetch(_DUE_THREADS, limit),
            *await self._driver.fetch(_DUE, limit),
        ]
        return [Kept(KeptKind(row[0]), *row[1:]) for row in map(tuple, rows)]

    async def deleted(self, kept: Kept) -> None:
        """Record that the upstream keeps it no longer."""
        if kept.kind is KeptKind.THREAD:
            await self._driver.execute(_DELETED_THREAD, kept.name)
            return
        await self._driver.execute(_DELETED, kept.kind.value, kept.name, kept.upstream_id)

    async def left(self, user_id: str) -> int:
        """Count what the upstream still keeps of a user."""
        return await self._driver.fetchval(_LEFT, user_id) or 0
