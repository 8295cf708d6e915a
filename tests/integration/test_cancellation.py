"""A task that is cancelled in the middle of a database call ends: no outage is seen in it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from app.adapters.postgres.database import PostgresDatabase
from app.adapters.postgres.wakeups import PostgresWakeUps
from app.domain.errors import StorageUnavailableError
from app.ports import UnitOfWork

TRIES = 150


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[PostgresDatabase]:
    found = PostgresDatabase(database_url, pool_size=2)
    yield found
    await found.aclose()


async def _cancelled_at_random(task: "asyncio.Task[None]") -> None:
    await asyncio.sleep(random.uniform(0, 0.006))  # noqa: S311 - any moment
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done
    assert task.cancelled()


@pytest.mark.parametrize("kind", ["transaction", "autocommit", "snapshot"])
async def test_a_cancelled_call_is_no_outage(database: PostgresDatabase, kind: str) -> None:
    begin: Callable[[], AbstractAsyncContextManager[UnitOfWork]] = getattr(database, kind)

    async def work() -> None:
        while True:
            try:
                async with begin() as uow:
                    await uow.log.now()
                    uow.wake_readers("sess_none")
            except StorageUnavailableError:
                await asyncio.sleep(0.001)

    for _ in range(TRIES):
        await _cancelled_at_random(asyncio.create_task(work()))


async def test_a_cancelled_listener_ends(database_url: str) -> None:
    wakeups = PostgresWakeUps(database_url)

    async def work() -> None:
        async with wakeups.listen("work"):
            await asyncio.Event().wait()

    for _ in range(TRIES // 2):
        await _cancelled_at_random(asyncio.create_task(work()))
