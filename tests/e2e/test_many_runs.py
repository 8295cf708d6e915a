"""Many runs at once in one worker: all complete, and Postgres hardly notices."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.e2e.crew import WORD, all_end, ask_at_once, hire, started
from tests.e2e.invariants import check, check_logs

RUNS = 200
POOL = 4
SAMPLE = """
SELECT
    (SELECT count(*) FROM runs WHERE status = 'in_progress') AS active,
    count(*) AS connections,
    count(*) FILTER (WHERE application_name = 'tutor-relay') AS pooled,
    coalesce(max(extract(epoch FROM clock_timestamp() - state_change))
        FILTER (WHERE state LIKE 'idle in transaction%'), 0)::float AS idle_s,
    coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float AS open_s
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@dataclass
class Peaks:
    """The worst that was seen."""

    samples: int = 0
    active: int = 0
    connections: int = 0
    pooled: int = 0
    idle_s: float = 0
    open_s: float = 0


@asynccontextmanager
async def watched(database_url: str) -> AsyncIterator[Peaks]:
    """Look at what Postgres says of its clients, all the while."""
    peaks = Peaks()
    connection = await asyncpg.connect(database_url)

    async def look() -> None:
        while True:
            row = await connection.fetchrow(SAMPLE)
            for name in ("active", "connections", "pooled", "idle_s", "open_s"):
                setattr(peaks, name, max(getattr(peaks, name), row[name]))
            peaks.samples += 1
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    try:
        yield peaks
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await connection.close()


async def test_two_hundred_runs_at_once_hold_neither_transactions_nor_connections(
    database_url: str, tmp_path: Path
) -> None:
    async with started(database_url, tmp_path, pace=20, DB_POOL_SIZE=str(POOL)) as stack:
        await hire(stack)
        async with watched(database_url) as peaks:
            asked = await ask_at_once(stack, RUNS, users=20)
            rows = await all_end(stack, asked, within=120)
        assert {row["status"] for row in rows} == {"completed"}
        assert {row["attempts"] for row in rows} == {1}
        assert peaks.samples > 20, peaks
        assert peaks.active > 150, peaks
        assert peaks.idle_s < 1, peaks
        assert peaks.open_s < 5, peaks
        # Two processes, each with its pool; a listener each; and whoever of us looks.
        assert peaks.pooled <= 2 * POOL, peaks
        assert peaks.connections <= 2 * (POOL + 1) + 1, peaks
        await check(database_url)
        check_logs(stack.logs(), WORD)
