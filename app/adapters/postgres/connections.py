"""A bounded set of connections, lent one at a time: the last one that came back goes out first.

SQLAlchemy's own pool makes new objects, and a task for their end, of each loan: code that a commit
every 30 ms finds in none of the processor's caches. And it lends what has rested longest: a server
process that has none of the tables in its caches either (ADR 0010).
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, cast

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.adapters.postgres.driver import Driver, is_cancelled
from app.domain.errors import DomainError

WAIT_S: Final = 10.0
"""How long to wait for one to come back."""
REST_S: Final = 300.0
"""One that rested longer may have been forgotten on the way to the server."""


class Lent(NamedTuple):
    """One connection in its two forms: SQLAlchemy's, and the driver's own."""

    connection: AsyncConnection
    driver: Driver


class Connections:
    """At most `size` connections, opened as they are needed and kept."""

    def __init__(self, engine: AsyncEngine, size: int) -> None:
        self._engine = engine
        """Opens connections, and keeps none."""
        self._room = asyncio.Semaphore(size)
        self._idle: list[tuple[Lent, float]] = []
        """With the time since when each rests."""
        self._is_closed = False

    @asynccontextmanager
    async def lend(self) -> AsyncGenerator[Lent]:
        """Lend one that is open, as far as is known.

        Raises:
            TimeoutError: None came back in time.
            OSError, asyncpg.PostgresError: None can be opened.
        """
        async with asyncio.timeout(WAIT_S if self._room.locked() else None):
            await self._room.acquire()
        try:
            lent = await self._rested() or await self._open()
            try:
                yield lent
            except BaseException as error:
                # A BEGIN that failed or was cut short leaves the driver in a transaction of its
                # own imagination: but after a refusal of ours, no other call may get it.
                if is_cancelled() or not isinstance(error, DomainError):
                    lent.driver.terminate()
                raise
            finally:
                await self._take_back(lent)
        finally:
            self._room.release()

    async def _rested(self) -> Lent | None:
        while self._idle:
            lent, since = self._idle.pop()
            if time.monotonic() - since > REST_S:
                # Not by a farewell, for which a dead one would be waited for.
                lent.driver.terminate()
            if not lent.driver.is_closed():
                return lent
            # Or the server has ended it meanwhile.
            await _close(lent)
        return None

    async def _open(self) -> Lent:
        connection = await self._engine.connect()
        raw = await connection.get_raw_connection()
        return Lent(connection, cast("Driver", raw.driver_connection))

    async def _take_back(self, lent: Lent) -> None:
        if self._is_closed or lent.driver.is_closed():
            await _close(lent)
            return
        if lent.connection.in_transaction():
            # It takes each statement for the begin of one, which the driver knows nothing of.
            await lent.connection.rollback()
        self._idle.append((lent, time.monotonic()))

    async def aclose(self) -> None:
        """Close them all, those that are lent as they come back."""
        self._is_closed = True
        while self._idle:
            await _close(self._idle.pop()[0])


async def _close(lent: Lent) -> None:
    if lent.driver.is_closed():
        await lent.connection.invalidate()
    await lent.connection.close()
