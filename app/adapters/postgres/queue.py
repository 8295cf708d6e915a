"""The run queue: the run row is the entry, a lease says who works on it.

Claims skip what others have locked, so that no worker ever waits for another's claim.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from app.adapters.postgres.clock import DatabaseClock
from app.adapters.postgres.driver import Driver
from app.adapters.postgres.rows import AnyRow, run_of
from app.domain.models import Run, RunStatus
from app.ports import Claim, Thread

# A run whose tools have answered waits as its session's active one: no other's turn comes before.
# The generation that asked for them has ended: its name would be taken for the next one's.
_QUEUED = """
WITH picked AS (
SELECT r.*, s.fence, s.last_seq, s.user_id AS owner, s.upstream_thread_id, s.upstream_turn,
    s.upstream_tail, clock_timestamp() AS at
FROM runs r JOIN sessions s ON s.id = r.session_id
WHERE r.status = 'queued' AND s.deleted_at IS NULL
    AND (s.active_run_id = r.id OR s.active_run_id IS NULL AND NOT EXISTS (
        SELECT FROM runs earlier
        WHERE earlier.session_id = r.session_id AND earlier.status = 'queued'
            AND earlier.seq < r.seq))
ORDER BY r.created_at LIMIT $1
FOR UPDATE OF s, r SKIP LOCKED
), leased AS (
    UPDATE runs SET worker_id = $2, lease_expires_at = clock_timestamp() + $3::interval,
        upstream_response_id = NULL
    WHERE id IN (SELECT id FROM picked)
)
SELECT * FROM picked ORDER BY created_at
"""

# After Postgres was away all leases have run out; their holders get one lease to renew them.
_ABANDONED = """
SELECT r.*, s.fence, s.last_seq, s.user_id AS owner, s.upstream_thread_id, s.upstream_turn,
    s.upstream_tail, clock_timestamp() AS at
FROM runs r JOIN sessions s ON s.id = r.session_id
WHERE r.status IN ('in_progress', 'cancelling') AND r.lease_expires_at < clock_timestamp()
    AND r.id <> ALL($3::text[])
    AND (r.worker_id IS NULL OR (
        $2::boolean AND pg_postmaster_start_time() + $4::interval < clock_timestamp()))
    AND s.deleted_at IS NULL
ORDER BY r.lease_expires_at LIMIT $1
FOR UPDATE OF s, r SKIP LOCKED
"""

_LEASE = """
UPDATE runs SET worker_id = $2, lease_expires_at = clock_timestamp() + $3::interval
WHERE id = ANY($1::text[])
"""

# A deleted session's run is held by nobody: its worker is to stop at once, not at its next word.
_HELD = """
SELECT id, status FROM runs
WHERE id = ANY($1::text[]) AND worker_id = $2 AND status IN ('in_progress', 'cancelling')
    AND session_id IN (SELECT s.id FROM sessions s WHERE s.deleted_at IS NULL)
"""

_HEARTBEAT = f"""
WITH held AS ({_HELD} ORDER BY id FOR UPDATE)
UPDATE runs SET lease_expires_at = clock_timestamp() + $3::interval
WHERE id IN (SELECT id FROM held)
RETURNING id, status
"""  # noqa: S608 - our own text

_COUNT_ATTEMPT = """
UPDATE runs SET attempts = attempts + 1, upstream_response_id = NULL
WHERE id = $1 AND worker_id = $2 AND status IN ('in_progress', 'cancelling')
    AND session_id IN (SELECT s.id FROM sessions s WHERE s.deleted_at IS NULL)
RETURNING attempts
"""

_IS_HELD = """
SELECT EXISTS (
    SELECT FROM sessions
    WHERE id = $1 AND active_run_id = $2 AND fence = $3 AND deleted_at IS NULL)
"""

_HAND_OVER = """
UPDATE runs
SET worker_id = NULL, lease_expires_at = '-infinity', handovers = handovers + 1
WHERE id = ANY($1::text[]) AND worker_id = $2 AND status IN ('in_progress', 'cancelling')
    AND session_id IN (SELECT s.id FROM sessions s WHERE s.deleted_at IS NULL)
"""

_NEW_THREAD = """
WITH ours AS (
    UPDATE sessions SET upstream_thread_id = $4, upstream_turn = $5, upstream_tail = $6
    WHERE id = $1 AND active_run_id = $2 AND fence = $3
    RETURNING id
), retired AS (
    UPDATE upstream_threads SET retired_at = now()
    WHERE session_id IN (SELECT id FROM ours) AND thread_id <> $4 AND retired_at IS NULL
), recorded AS (
    INSERT INTO upstream_threads (thread_id, session_id, retired_at)
    SELECT $4, $1, CASE WHEN EXISTS (SELECT FROM ours) THEN NULL ELSE now() END
    ON CONFLICT (thread_id) DO NOTHING
)
SELECT EXISTS (SELECT FROM ours)
"""

# Each status by itself: that is how the partial indexes are found.
_OVERDUE = """
SELECT r.* FROM runs r JOIN sessions s ON s.id = r.session_id
WHERE (r.status = 'queued' AND r.expires_at IS NULL AND r.created_at < now() - $1::interval
        OR r.status = 'queued' AND r.expires_at < now()
        OR r.status = 'requires_action' AND r.expires_at < now())
    AND s.deleted_at IS NULL
ORDER BY s.id LIMIT $2
FOR UPDATE OF s, r SKIP LOCKED
"""


class PostgresQueue:
    """The queue, inside one transaction."""

    def __init__(self, driver: Driver, clock: DatabaseClock) -> None:
        self._driver = driver
        self._clock = clock

    async def lease_queued(
        self, worker_id: str, *, lease: timedelta, lifetime: timedelta, limit: int
    ) -> Sequence[Claim]:
        """Lock and lease the oldest runs that wait.

        They wait in sessions without an active run, or are it, with what their tools returned.
        """
        rows = await self._rows(_QUEUED, limit, worker_id, lease)
        return [
            self._claim(row, row["expires_at"] - row["at"] if row["expires_at"] else lifetime)
            for row in rows
        ]

    async def lease_abandoned(
        self, worker_id: str, *, lease: timedelta, limit: int, reap: bool, held: Sequence[str]
    ) -> Sequence[Claim]:
        """Lock and lease active runs that were handed over or, with `reap`, fell silent.

        A worker may have lost sight of a run of its own (a claim whose commit was in doubt):
        what it does not hold is taken like anybody's.
        """
        rows = await self._rows(_ABANDONED, limit, reap, list(held), lease)
        await self._lease(rows, worker_id, lease)
        return [self._claim(row, row["expires_at"] - row["at"]) for row in rows]

    async def _lease(self, rows: Sequence[AnyRow], worker_id: str, lease: timedelta) -> None:
        if rows:
            ids = [row["id"] for row in rows]
            await self._driver.execute(_LEASE, ids, worker_id, lease)

    async def heartbeat(
        self, worker_id: str, run_ids: Sequence[str], *, lease: timedelta
    ) -> Mapping[str, RunStatus]:
        """Renew leases, even such as ran out; return what the worker still holds."""
        return _statuses(await self._rows(_HEARTBEAT, list(run_ids), worker_id, lease))

    async def held(self, worker_id: str, run_ids: Sequence[str]) -> Mapping[str, RunStatus]:
        """Return what the worker holds, as `heartbeat` does, and write nothing."""
        return _statuses(await self._rows(_HELD, list(run_ids), worker_id))

    async def count_attempt(self, run_id: str, worker_id: str) -> int | None:
        """Record that another generation is about to be asked for; None when fenced."""
        rows = await self._rows(_COUNT_ATTEMPT, run_id, worker_id)
        return rows[0]["attempts"] if rows else None

    async def open_thread(self, claim: Claim, thread: Thread) -> bool:
        """Record a new upstream thread, and the old one as given up; False when fenced."""
        run = claim.run
        is_ours = await self._driver.fetchval(
            _NEW_THREAD,
            run.session_id,
            run.id,
            claim.fence,
            thread.thread_id,
            thread.turn,
            thread.tail,
        )
        return bool(is_ours)

    async def is_held(self, claim: Claim) -> bool:
        """Tell whether the run is still the session's active one under the claim's fence."""
        run = claim.run
        return bool(await self._driver.fetchval(_IS_HELD, run.session_id, run.id, claim.fence))

    async def hand_over(self, worker_id: str, run_ids: Sequence[str]) -> int:
        """Give leases up, resumable by others at once; return how many."""
        result = await self._driver.execute(_HAND_OVER, list(run_ids), worker_id)
        return int(result.rpartition(" ")[2])

    async def overdue(self, *, queue_limit: timedelta, limit: int) -> Sequence[Run]:
        """Lock runs without a lease whose time is up: in the queue, or waiting for tools."""
        return [run_of(row) for row in await self._rows(_OVERDUE, queue_limit, limit)]

    async def _rows(self, statement: str, *parameters: Any) -> Sequence[AnyRow]:
        return await self._driver.fetch(statement, *parameters)

    def _claim(self, row: AnyRow, remaining: timedelta) -> Claim:
        self._clock.observe(row["at"])
        is_takeover = row["status"] != RunStatus.QUEUED
        return Claim(
            run=run_of(row),
            fence=row["fence"] + 1,
            last_seq=row["last_seq"],
            thread=Thread(row["upstream_thread_id"], row["upstream_turn"], row["upstream_tail"]),
            response_id=row["upstream_response_id"] if is_takeover else None,
            is_takeover=is_takeover,
            handovers=row["handovers"],
            remaining=remaining,
            safety_id=hashlib.sha256(row["owner"].encode()).hexdigest(),
            user_id=row["owner"],
        )


def _statuses(rows: Sequence[AnyRow]) -> Mapping[str, RunStatus]:
    return {row["id"]: RunStatus(row["status"]) for row in rows}
