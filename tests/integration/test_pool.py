"""The pool of connections: bounded, the last returned first, and never one that has ended."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import asyncpg
import psycopg
import pytest
import pytest_asyncio

from app.adapters.postgres import connections
from app.adapters.postgres.database import PostgresDatabase
from app.domain.errors import NotFoundError, StorageUnavailableError
from tests.stack import until

CUT_OFF = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tutor-relay'
"""

PIDS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tutor-relay'
"""


def backends(database_url: str) -> set[int]:
    """Return which of the server's processes serve us."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        return {pid for (pid,) in connection.execute(PIDS)}


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncGenerator[PostgresDatabase]:
    """A pool of two."""
    database = PostgresDatabase(database_url, pool_size=2)
    yield database
    await database.aclose()


async def now(pool: PostgresDatabase) -> None:
    """Use a connection."""
    async with pool.autocommit() as uow:
        await uow.log.now()


async def spoil(pool: PostgresDatabase) -> None:
    """Do in a transaction what Postgres does not understand."""
    async with pool.transaction() as uow:
        await uow.log._driver.execute("no statement")  # noqa: SLF001 - none of ours is wrong


async def refuse(pool: PostgresDatabase) -> None:
    """Refuse something in a transaction."""
    async with pool.transaction() as uow:
        await uow.log.now()
        raise NotFoundError


async def test_what_came_back_goes_out_again_and_no_other_is_opened(
    pool: PostgresDatabase, database_url: str
) -> None:
    for _ in range(5):
        await now(pool)
    assert len(backends(database_url)) == 1


async def test_no_more_than_its_size_are_open_and_who_comes_late_waits(
    pool: PostgresDatabase, database_url: str
) -> None:
    done: list[int] = []

    async def hold(number: int) -> None:
        async with pool.autocommit() as uow:
            await uow.log.now()
            await asyncio.sleep(0.05)
            done.append(number)

    await asyncio.gather(*map(hold, range(6)))
    assert sorted(done) == list(range(6))
    assert len(backends(database_url)) == 2


async def test_who_waits_too_long_for_a_connection_is_told(
    pool: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "WAIT_S", 0.05)
    async with pool.autocommit(), pool.autocommit():
        with pytest.raises(StorageUnavailableError):
            await now(pool)
    await now(pool)


async def test_one_that_the_server_ended_while_it_rested_costs_nobody_an_error(
    pool: PostgresDatabase, database_url: str
) -> None:
    async with pool.autocommit() as one, pool.autocommit() as other:
        await one.log.now()
        await other.log.now()
    before = backends(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(CUT_OFF)
    await asyncio.sleep(0.1)
    await now(pool)
    after = backends(database_url)
    assert len(before) == 2
    assert len(after) == 1
    assert not before & after


async def test_one_that_rested_long_is_not_trusted(
    pool: PostgresDatabase, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await now(pool)
    before = backends(database_url)
    monkeypatch.setattr(connections, "REST_S", 0.0)
    await now(pool)

    async def is_replaced() -> bool:
        present = backends(database_url)
        return len(present) == 1 and not present & before

    assert await until(is_replaced)


async def test_one_whose_transaction_went_wrong_is_lent_to_nobody(
    pool: PostgresDatabase, database_url: str
) -> None:
    await now(pool)
    before = backends(database_url)
    with pytest.raises(asyncpg.SyntaxOrAccessError):
        await spoil(pool)
    async with pool.transaction() as uow:
        await uow.log.now()
    assert not before & backends(database_url)


async def test_one_in_whose_transaction_something_was_refused_is_lent_again(
    pool: PostgresDatabase, database_url: str
) -> None:
    await now(pool)
    before = backends(database_url)
    with pytest.raises(NotFoundError):
        await refuse(pool)
    async with pool.transaction() as uow:
        await uow.log.now()
    assert backends(database_url) == before


async def test_one_that_is_lent_when_the_pool_is_closed_is_closed_as_it_comes_back(
    pool: PostgresDatabase, database_url: str
) -> None:
    async with pool.autocommit() as uow:
        await uow.log.now()
        await pool.aclose()
        assert len(backends(database_url)) == 1

    async def is_none_left() -> bool:
        return not backends(database_url)

    await until(is_none_left)


async def test_connections_that_were_ended_while_a_process_was_frozen_are_closed_quietly(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = PostgresDatabase(database_url, pool_size=2)
    async with database.autocommit() as one, database.autocommit() as other:
        await one.log.now()
        await other.log.now()
    # Nothing is awaited from here on: as when it is frozen, the process hears of nothing.
    with psycopg.connect(database_url, autocommit=True) as connection:
        ended = connection.execute(CUT_OFF).fetchall()
    with caplog.at_level(logging.WARNING):
        await database.aclose()
    assert ended == [(True,), (True,)]
    assert caplog.text == ""
