"""`python -m bench.drivers`: asyncpg against psycopg 3 for what Tutor Relay asks of a database.

Client-side CPU (user + system of this process) per operation, raw and through SQLAlchemy Core,
on one uvloop, one operation at a time; the contenders take turns within every repeat. The
server's work is the same for all and runs in other processes, so it is not in these numbers.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Protocol, Self

import asyncpg
import psycopg
import sqlalchemy as sa
import uvloop
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bench.postgres import database, libpq

SESSIONS = 50
IDS = list(range(1, SESSIONS + 1))
TYPES = ["message.delta"] * SESSIONS
DELTA = (
    '{"type":"message.delta","session_id":"sess_1","seq":12,"at":"2026-11-24T00:00:00.000000Z",'
    '"message_id":"msg_1","run_id":"run_1","part":0,"text":" some words"}'
)
DATA = [DELTA] * SESSIONS

SCHEMA = b"""
DROP SCHEMA IF EXISTS bench_drivers CASCADE;
CREATE SCHEMA bench_drivers;
CREATE TABLE bench_drivers.sessions (
    id bigint PRIMARY KEY, last_seq bigint NOT NULL, fence bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE bench_drivers.events (
    session_id bigint NOT NULL, seq bigint NOT NULL, type text NOT NULL, data text NOT NULL,
    PRIMARY KEY (session_id, seq));
CREATE TABLE bench_drivers.small (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data text);
INSERT INTO bench_drivers.sessions SELECT i, 0, 1 FROM generate_series(1, 50) i;
"""


class Statement:
    """One statement in the three placeholder styles, prepared before anything is measured.

    psycopg's `%b` sends arrays in binary: 100 µs of client CPU for 50 texts instead of 470 with
    `%s`, which quotes them in Python. SQLAlchemy's dialect leaves no such choice.
    """

    def __init__(self, text: str, *types: str) -> None:
        count = range(len(types))
        casts = [f"CAST({{}} AS {type_})" for type_ in types]
        self.dollars = text.format(*(casts[i].format(f"${i + 1}") for i in count))
        self.percents = text.format(*(casts[i].format("%b") for i in count)).encode()
        self.named = sa.text(text.format(*(casts[i].format(f":p{i}") for i in count)))


LOCK = Statement(
    "SELECT id, last_seq, fence FROM bench_drivers.sessions"
    " WHERE id = ANY({}) ORDER BY id FOR UPDATE",
    "bigint[]",
)
APPEND = Statement(
    "INSERT INTO bench_drivers.events (session_id, seq, type, data)"
    " SELECT * FROM unnest({}, {}, {}, {})",
    "bigint[]",
    "bigint[]",
    "text[]",
    "text[]",
)
ADVANCE = Statement(
    "UPDATE bench_drivers.sessions s SET last_seq = n.seq"
    " FROM unnest({}, {}) AS n(id, seq) WHERE s.id = n.id",
    "bigint[]",
    "bigint[]",
)
READ = Statement(
    "SELECT e.session_id, e.seq, e.type, e.data FROM unnest({}, {}) AS c(id, seq)"
    " JOIN LATERAL (SELECT * FROM bench_drivers.events"
    " WHERE session_id = c.id AND seq > c.seq ORDER BY seq LIMIT 100) e ON true",
    "bigint[]",
    "bigint[]",
)
SMALL = Statement("INSERT INTO bench_drivers.small (data) VALUES ({})", "text")
BY_KEY = Statement(
    "SELECT id, last_seq, fence FROM bench_drivers.sessions WHERE id = {}", "bigint"
)
NOTIFY = Statement("SELECT pg_notify({}, {})", "text", "text")


class Driver(Protocol):
    """One way to talk to Postgres."""

    async def run(self, statement: Statement, *values: object) -> Sequence[Any]:
        """Execute in the present transaction, or in one of its own; fetch what comes."""

    async def begin(self) -> None:
        """Begin a transaction."""

    async def commit(self) -> None:
        """Commit it."""


class Asyncpg:
    """Raw asyncpg; it caches prepared statements by itself."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def run(self, statement: Statement, *values: object) -> Sequence[Any]:
        """Fetch; without a result set this is an empty list."""
        rows: list[Any] = await self._connection.fetch(statement.dollars, *values)
        return rows

    async def begin(self) -> None:
        """BEGIN."""
        self._transaction = self._connection.transaction()
        await self._transaction.start()

    async def commit(self) -> None:
        """COMMIT."""
        await self._transaction.commit()


class Psycopg:
    """Raw psycopg 3 with its C core and binary results; prepares on the fifth use by default."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._cursor = connection.cursor(binary=True)

    async def run(self, statement: Statement, *values: object) -> Sequence[Any]:
        """Execute and fetch."""
        await self._cursor.execute(statement.percents, values)
        return await self._cursor.fetchall() if self._cursor.description else ()

    async def begin(self) -> None:
        """BEGIN."""
        await self._cursor.execute(b"BEGIN")

    async def commit(self) -> None:
        """COMMIT."""
        await self._cursor.execute(b"COMMIT")


class Core:
    """SQLAlchemy Core with textual statements; a connection from the pool per transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None

    async def run(self, statement: Statement, *values: object) -> Sequence[Any]:
        """Execute and fetch."""
        bound = {f"p{index}": value for index, value in enumerate(values)}
        if self._connection is not None:
            result = await self._connection.execute(statement.named, bound)
            return result.all() if result.returns_rows else ()
        async with self._engine.begin() as connection:
            result = await connection.execute(statement.named, bound)
            return result.all() if result.returns_rows else ()

    async def begin(self) -> None:
        """Check a connection out; its first statement begins."""
        self._connection = await self._engine.connect()

    async def commit(self) -> None:
        """COMMIT and check in."""
        assert self._connection is not None  # noqa: S101
        await self._connection.commit()
        await self._connection.close()
        self._connection = None


class Work:
    """The operations, the same for every driver; `seq` is shared, so that cursors stay true."""

    def __init__(self) -> None:
        self._seq = 0

    async def tick(self, driver: Driver) -> None:
        """Group commit of one delta for each of 50 runs."""
        self._seq += 1
        seqs = [self._seq] * SESSIONS
        await driver.begin()
        await driver.run(LOCK, IDS)
        await driver.run(APPEND, IDS, seqs, TYPES, DATA)
        await driver.run(ADVANCE, IDS, seqs)
        await driver.commit()

    async def read(self, driver: Driver) -> None:
        """The relay's read: one new event in each of 50 sessions."""
        rows = await driver.run(READ, IDS, [self._seq - 1] * SESSIONS)
        if len(rows) != SESSIONS:
            raise RuntimeError(f"read {len(rows)} events instead of {SESSIONS}")

    @staticmethod
    async def small(driver: Driver) -> None:
        """One row, committed."""
        await driver.run(SMALL, "x" * 100)

    @staticmethod
    async def by_key(driver: Driver) -> None:
        """One row by its primary key."""
        await driver.run(BY_KEY, 17)


class Ears:
    """One driver's listener, on a channel of its own, and the round trip through it."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self._heard = asyncio.Event()

    async def round_trip(self, driver: Driver) -> None:
        """Notify on one connection, hear it on another."""
        self._heard.clear()
        await driver.run(NOTIFY, self.channel, "sess_1,sess_2,sess_3")
        await asyncio.wait_for(self._heard.wait(), 5)

    async def listen_asyncpg(self, connection: Any) -> None:
        """Begin to hear."""
        await connection.add_listener(self.channel, lambda *_: self._heard.set())

    async def listen_psycopg(self, connection: psycopg.AsyncConnection[Any]) -> asyncio.Task[None]:
        """Begin to hear; ends when cancelled."""
        await connection.execute(f"LISTEN {self.channel}".encode())

        async def hear() -> None:
            async for _ in connection.notifies():
                self._heard.set()

        return asyncio.create_task(hear())


class Table:
    """CPU-microseconds per operation and driver."""

    def __init__(self, operations: int, repeats: int) -> None:
        self._operations = operations
        self._repeats = repeats
        self._cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._wall: dict[tuple[str, str], list[float]] = defaultdict(list)

    async def fill(
        self,
        name: str,
        drivers: dict[str, Driver],
        operation: Callable[[str, Driver], Awaitable[None]],
    ) -> Self:
        """Measure one operation for all drivers, taking turns."""
        for repeat in range(self._repeats + 1):  # the first one warms caches, and is dropped
            for label, driver in drivers.items():
                cpu, wall = time.process_time(), time.perf_counter()
                for _ in range(self._operations):
                    await operation(label, driver)
                if repeat:
                    per = 1e6 / self._operations
                    self._cpu[name, label].append((time.process_time() - cpu) * per)
                    self._wall[name, label].append((time.perf_counter() - wall) * per)
        return self

    def markdown(self, labels: Sequence[str]) -> str:
        """Medians, CPU first, elapsed in brackets."""
        names = list(dict.fromkeys(name for name, _ in self._cpu))
        lines = [
            "| client CPU-µs per operation (elapsed) | " + " | ".join(labels) + " |",
            "|---|" + "---|" * len(labels),
        ]
        for name in names:
            cells = [
                f"{statistics.median(self._cpu[name, label]):.0f} "
                f"({statistics.median(self._wall[name, label]):.0f})"
                if (name, label) in self._cpu
                else ""
                for label in labels
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)


async def compare(url: str, operations: int, repeats: int) -> str:
    """The whole table."""
    bare = libpq(url)
    async with AsyncExitStack() as stack:

        async def psycopg_connection() -> psycopg.AsyncConnection[Any]:
            made = await psycopg.AsyncConnection.connect(bare, autocommit=True)
            return await stack.enter_async_context(made)

        async def asyncpg_connection() -> Any:
            made = await asyncpg.connect(bare)
            stack.push_async_callback(made.close)
            return made

        def engine(dialect: str) -> AsyncEngine:
            made = create_async_engine(f"postgresql+{dialect}://{bare.partition('://')[2]}")
            stack.push_async_callback(made.dispose)
            return made

        setup = await psycopg_connection()
        await setup.execute(SCHEMA)
        raw: dict[str, Driver] = {
            "asyncpg": Asyncpg(await asyncpg_connection()),
            "psycopg": Psycopg(await psycopg_connection()),
        }
        drivers = raw | {
            "Core + asyncpg": Core(engine("asyncpg")),
            "Core + psycopg": Core(engine("psycopg")),
        }
        work, table = Work(), Table(operations, repeats)
        await table.fill("group-commit tick, 50 runs", drivers, lambda _, d: work.tick(d))
        await table.fill("relay read, 50 sessions", drivers, lambda _, d: work.read(d))
        await table.fill("insert and commit", drivers, lambda _, d: work.small(d))
        await table.fill("select by primary key", drivers, lambda _, d: work.by_key(d))

        ears = {label: Ears(f"bench_{label}") for label in raw}
        await ears["asyncpg"].listen_asyncpg(await asyncpg_connection())
        hearing = await ears["psycopg"].listen_psycopg(await psycopg_connection())
        await table.fill(
            "NOTIFY to LISTEN round trip",
            raw,
            lambda label, driver: ears[label].round_trip(driver),
        )
        hearing.cancel()
        with suppress(asyncio.CancelledError):
            await hearing
        await setup.execute(b"DROP SCHEMA bench_drivers CASCADE")
        return table.markdown(list(drivers))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.drivers", description=__doc__)
    parser.add_argument("--operations", type=int, default=400, help="per driver and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        database(Path(directory)) as url,
    ):
        print(uvloop.run(compare(url, arguments.operations, arguments.repeats)))


if __name__ == "__main__":
    main()
