"""Transactions, on connections to one Postgres."""

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Final

import asyncpg
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.adapters.postgres.answers import PostgresAnswers
from app.adapters.postgres.clock import DatabaseClock
from app.adapters.postgres.connections import Connections, Lent
from app.adapters.postgres.conversations import PostgresMessages, PostgresRuns, PostgresSessions
from app.adapters.postgres.driver import (
    DRIVER_ERRORS,
    Driver,
    PooledConnection,
    check_cancelled,
)
from app.adapters.postgres.files import PostgresFiles
from app.adapters.postgres.imports import PostgresImports
from app.adapters.postgres.ledger import PostgresLedger
from app.adapters.postgres.log import PostgresEventLog
from app.adapters.postgres.outages import translated
from app.adapters.postgres.people import PostgresAssistants, PostgresTickets, PostgresUsers
from app.adapters.postgres.pooler import SET_LOCAL, SETTINGS, is_pooled
from app.adapters.postgres.queue import PostgresQueue
from app.adapters.postgres.stores import PostgresStores
from app.adapters.postgres.tutors import PostgresTutors
from app.adapters.postgres.upkeep import PostgresUpkeep
from app.adapters.postgres.wakeups import CHANNELS, NEW_RUN, NOTIFY, NOTIFY_BOTH, payload_of
from app.domain.errors import SchemaBehindError

log = logging.getLogger(__name__)

ROOT: Final = Path(__file__).resolve().parents[3]


class PostgresUnitOfWork:
    """One transaction, and the repositories inside it.

    They share one connection in two forms: SQLAlchemy's, for queries that are composed, and the
    driver's own, for the statements of the hot path, which cost a third that way (ADR 0010).
    """

    def __init__(self, connection: AsyncConnection, driver: Driver, clock: DatabaseClock) -> None:
        self.touched: set[str] = set()
        self.work: str | None = None
        self.users = PostgresUsers(connection, driver)
        self.assistants = PostgresAssistants(connection)
        self.sessions = PostgresSessions(connection, driver, clock)
        self.messages = PostgresMessages(connection, driver)
        self.runs = PostgresRuns(connection, driver)
        self.log = PostgresEventLog(driver, self.touched, clock)
        self.queue = PostgresQueue(driver, clock)
        self.upkeep = PostgresUpkeep(connection, driver)
        self.tutors = PostgresTutors(driver)
        self.answers = PostgresAnswers(driver)
        self.tickets = PostgresTickets(connection)
        self.imports = PostgresImports(driver)
        self.files = PostgresFiles(connection, driver)
        self.ledger = PostgresLedger(driver)
        self.stores = PostgresStores(connection, driver)

    def wake_workers(self, *, new_run: bool = False) -> None:
        """After the commit: a run waits, or else anything may have changed for a worker."""
        self.work = NEW_RUN if new_run else ""

    def wake_readers(self, session_id: str) -> None:
        """After the commit: the session changed without an event."""
        self.touched.add(session_id)


class PostgresDatabase:
    """A bounded pool of connections to one Postgres, or to a transaction pooler before it."""

    def __init__(
        self, dsn: str, *, pool_size: int, pooled: bool | None = None, patience_s: float = 35
    ) -> None:
        self._dsn = dsn
        self._clock = DatabaseClock()
        self._patience_s = patience_s
        """How long one statement may take; one that is never answered else holds its caller."""
        self._pooled = pooled
        """Whether a pooler is there; None until the first connection finds out."""
        self._engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            creator=self._connect,
            # Transactions are begun and ended by the driver, for both forms of the connection.
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,
            hide_parameters=True,
        )
        self._connections = Connections(self._engine, pool_size)

    def _connect(self) -> Any:
        # What SQLAlchemy prepares, it keeps; unless it is told to keep nothing.
        return self._engine.sync_engine.dialect.loaded_dbapi.connect(
            async_creator_fn=self._new_driver,
            prepared_statement_cache_size=0 if self._pooled else 100,
        )

    async def _new_driver(self) -> Driver:
        settings = {} if self._pooled else SETTINGS
        return await asyncpg.connect(
            self._dsn,
            timeout=5,
            command_timeout=self._patience_s,
            statement_cache_size=0 if self._pooled else 100,
            server_settings={"application_name": "tutor-relay"} | settings,
            connection_class=PooledConnection,
        )

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Lent]:
        with translated():
            if self._pooled is None:
                self._pooled = await is_pooled(self._dsn)
            async with self._connections.lend() as lent:
                yield lent

    def _begun(self, driver: Driver, **how: Any) -> AbstractAsyncContextManager[Any]:
        transaction = driver.transaction(**how)
        return _with_settings(driver, transaction) if self._pooled else transaction

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[PostgresUnitOfWork]:
        """Begin; commit at the end of the block; then tell readers and workers.

        Raises:
            StorageUnavailableError: The database is away; what was to be written may or may
                not have been, if it went away during the commit.
        """
        async with self._connection() as (connection, driver):
            uow = PostgresUnitOfWork(connection, driver, self._clock)
            async with self._begun(driver):
                yield uow
            await _notify(driver, uow)

    @asynccontextmanager
    async def autocommit(self, *, writes: bool = False) -> AsyncGenerator[PostgresUnitOfWork]:
        """Let each statement be a transaction of its own; then tell readers and workers.

        Behind a pooler only a transaction bounds how long a lock is waited for: there, what is
        said to be `writes` is one.
        """
        async with self._connection() as (connection, driver):
            uow = PostgresUnitOfWork(connection, driver, self._clock)
            async with self._begun(driver) if writes and self._pooled else nullcontext():
                yield uow
            await _notify(driver, uow)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[PostgresUnitOfWork]:
        """Read one consistent state, in a read-only transaction."""
        async with (
            self._connection() as (connection, driver),
            self._begun(driver, isolation="repeatable_read", readonly=True),
        ):
            yield PostgresUnitOfWork(connection, driver, self._clock)

    async def check_ready(self) -> None:
        """Raise `StorageUnavailableError` or `SchemaBehindError` when it can't serve."""
        async with self._connection() as (_, driver):
            try:
                rows = await driver.fetch("SELECT version_num FROM alembic_version")
            except asyncpg.UndefinedTableError:
                raise SchemaBehindError from None
        present = {row["version_num"] for row in rows}
        # One that is not known here is newer, and has only added to ours: while a deploy goes on,
        # processes of the earlier version are started again too.
        if not present or present & outdated_revisions():
            raise SchemaBehindError

    async def aclose(self) -> None:
        """Close every connection."""
        await self._connections.aclose()


@asynccontextmanager
async def _with_settings(
    driver: Driver, transaction: AbstractAsyncContextManager[Any]
) -> AsyncGenerator[None]:
    async with transaction:
        await driver.execute(SET_LOCAL)
        yield


async def _notify(driver: Driver, uow: PostgresUnitOfWork) -> None:
    """Tell readers and workers, after the commit.

    Inside the transaction all commits of the database would queue for each other's
    notifications (ADR 0002).
    """
    events, work = CHANNELS["events"], CHANNELS["work"]
    told = payload_of(uow.touched)
    try:
        if uow.touched and uow.work is not None:
            await driver.execute(NOTIFY_BOTH, work, uow.work, events, told)
        elif uow.touched:
            await driver.execute(NOTIFY, events, told)
        elif uow.work is not None:
            await driver.execute(NOTIFY, work, uow.work)
    except DRIVER_ERRORS as error:
        check_cancelled()
        # What is written must not look unwritten, or it is written twice; a lost wake-up costs
        # a poll's time.
        log.warning("a wake-up was lost: %s", type(error).__name__)


@cache
def outdated_revisions() -> frozenset[str]:
    """Return the revisions of the schema that this version of the code has left behind."""
    scripts = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))
    known = {script.revision for script in scripts.walk_revisions()}
    return frozenset(known - set(scripts.get_heads()))
