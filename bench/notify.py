"""`python -m bench.notify`: NOTIFY inside the writing transaction, after its commit, or never.

Inside, Postgres takes one lock for the whole database from the moment the notification is
queued until the commit is durable, so that notifications have an order: commits of different
connections can't share a flush any more. After the commit it is one more round trip, and a
crash in between loses the wake-up (which the slow poll repairs). That transaction takes an id
and is flushed as well; *unflushed* sends it with `synchronous_commit = off`, which risks nothing,
since notifications don't survive a crash anyway; *batched* sends one for ten commits.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, get_args

import asyncpg
import uvloop

from bench.postgres import Counters, database, libpq
from bench.processes import tree_cpu_s

Where = Literal["never", "inside", "after", "after, unflushed", "after, batched"]

SCHEMA = """
DROP SCHEMA IF EXISTS bench_notify CASCADE;
CREATE SCHEMA bench_notify;
CREATE TABLE bench_notify.events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data text NOT NULL);
"""
INSERT = "INSERT INTO bench_notify.events (data) SELECT $1 FROM generate_series(1, 10)"
NOTIFY = "SELECT pg_notify('bench_notify', $1)"
UNFLUSHED = "SELECT set_config('synchronous_commit', 'off', true), pg_notify('bench_notify', $1)"
DATA = "x" * 200
PAYLOAD = "sess_0123456789abcdef:12345"
BATCH = 10


async def _writer(connection: Any, where: Where, until: float, commits: list[float]) -> None:
    pending = 0
    while (begun := time.perf_counter()) < until:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(INSERT, DATA)
        if where == "inside":
            await connection.fetchval(NOTIFY, PAYLOAD)
        await transaction.commit()
        pending += 1
        if where == "after, unflushed":
            await connection.fetchval(UNFLUSHED, PAYLOAD)
        elif where == "after" or (where == "after, batched" and pending == BATCH):
            await connection.fetchval(NOTIFY, PAYLOAD)
            pending = 0
        commits.append(time.perf_counter() - begun)


async def _once(url: str, where: Where, connections: int, seconds: float) -> list[float]:
    """Durations of all transactions that the writers committed in the window."""
    heard = 0

    def hear(*_: object) -> None:
        nonlocal heard
        heard += 1

    listener = await asyncpg.connect(url)
    await listener.add_listener("bench_notify", hear)
    writers = [await asyncpg.connect(url) for _ in range(connections)]
    commits: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_writer(writer, where, until, commits) for writer in writers))
    for connection in [listener, *writers]:
        await connection.close()
    if where != "never" and not heard:
        raise RuntimeError("no notification was heard")
    return commits


async def compare(url: str, connections: list[int], repeats: int, seconds: float) -> str:
    """The table."""
    with Counters(url) as counters:
        postmaster = counters.postmaster()
    setup = await asyncpg.connect(libpq(url))
    await setup.execute(SCHEMA)
    found: dict[tuple[Where, int], list[tuple[float, float, float, float]]] = defaultdict(list)
    for _ in range(repeats):
        for count in connections:
            for where in get_args(Where):
                await setup.execute("TRUNCATE bench_notify.events")
                client = time.process_time()
                server = tree_cpu_s(postmaster) if postmaster else 0.0
                commits = await _once(libpq(url), where, count, seconds)
                client = time.process_time() - client
                server = (tree_cpu_s(postmaster) if postmaster else 0.0) - server
                total = len(commits)
                late = sorted(commits)[int(0.99 * total)]
                found[where, count].append(
                    (total / seconds, late * 1e3, 1e6 * server / total, 1e6 * client / total)
                )
    await setup.execute("DROP SCHEMA bench_notify CASCADE")
    await setup.close()
    head = (
        "| connections | NOTIFY | commits/s | p99 ms | Postgres CPU-µs / commit "
        "| client CPU-µs / commit |"
    )
    lines = [
        head,
        "|---|---|---|---|---|---|",
    ]
    for (where, count), values in found.items():
        rate, late, server, client = (
            statistics.median(column) for column in zip(*values, strict=True)
        )
        lines.append(
            f"| {count} | {where} | {rate:.0f} | {late:.1f} | {server:.0f} | {client:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.notify", description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        database(Path(directory)) as url,
    ):
        work = compare(url, arguments.connections, arguments.repeats, arguments.seconds)
        print(uvloop.run(work))


if __name__ == "__main__":
    main()
