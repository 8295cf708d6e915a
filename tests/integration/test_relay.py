"""Readers that come and go while others do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.adapters.postgres.database import PostgresDatabase
from app.adapters.postgres.wakeups import PostgresWakeUps
from app.domain.events import Draft, RunChanged
from app.domain.models import Principal, RunStatus, User
from app.ports import Append, UnitOfWork
from app.services.relay import Relay
from app.services.sessions import SessionService
from app.services.streams import Stream
from tests.integration.test_log import a_step, desk_on
from tests.stack import blocks_of


class GatedDatabase(PostgresDatabase):
    """Postgres, but a snapshot waits for the test's leave once it was read."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, pool_size=5)
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_waiting = asyncio.Event()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        async with super().snapshot() as uow:
            yield uow
        self.is_waiting.set()
        await self.gate.wait()


async def take(stream: Stream, wanted: str) -> None:
    async for piece in stream.chunks():
        if wanted.encode() in piece:
            return


async def say(database: PostgresDatabase, session_id: str, word: str) -> None:
    async with database.transaction() as uow:
        found: UnitOfWork = uow
        await found.log.append([Append(session_id, [a_step(session_id, "run_1", word)])])


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[GatedDatabase]:
    database = GatedDatabase(database_url)
    yield database
    await database.aclose()


async def test_a_reader_that_comes_as_the_last_one_leaves_misses_nothing(
    database: GatedDatabase, database_url: str
) -> None:
    relay = Relay(
        database,
        PostgresWakeUps(database_url),
        news=database,
        max_streams=5,
        poll=timedelta(seconds=60),
    )
    running = asyncio.create_task(relay.run())
    async with database.transaction() as uow:
        user_id = await uow.users.resolve(Principal("alice", None, frozenset(), 2e9))
    user = User(user_id, Principal("alice", None, frozenset(), 2e9))
    opened = await SessionService(database).open(user, assistant_id=None, title=None, metadata={})
    session = opened["id"]
    first = await relay.follow_session(user, session, after=0)
    await say(database, session, "warm")
    await asyncio.wait_for(take(first, "warm"), 10)

    database.gate.clear()
    database.is_waiting.clear()
    joining = asyncio.create_task(relay.follow_session(user, session, after=None))
    await asyncio.wait_for(database.is_waiting.wait(), 10)
    first.close()
    database.gate.set()
    second = await joining
    reading = asyncio.create_task(take(second, "news"))
    await say(database, session, "news")
    await asyncio.wait_for(reading, 10)
    second.close()
    assert relay.streams_left(user) == 5
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_reader_that_comes_back_before_its_process_has_heard_of_the_end_gets_it(
    database: GatedDatabase, database_url: str
) -> None:
    async with desk_on(database_url) as desk:
        user, session = await desk.session()
        await desk.post(user, session)
        (claim,) = await desk.queue("worker_a").claim(1)
        run = claim.run
        # This process hears of nothing: no loop of its relay runs.
        relay = Relay(
            database,
            PostgresWakeUps(database_url),
            news=database,
            max_streams=5,
            poll=timedelta(seconds=60),
        )
        other = await relay.follow_session(user, session, after=None)
        seen = await desk.events(session)
        ended: list[Draft] = [a_step(session, run.id, "last")]
        ended.append(RunChanged(replace(run, status=RunStatus.COMPLETED)))
        assert not await desk.append(Append(session, ended, run_id=run.id, fence=claim.fence))
        stream = await relay.follow_run(user, session, run.id, after=len(seen))
        assert stream is not None
        text = b"".join([piece async for piece in stream.chunks()]).decode()
        for reader in (other, stream):
            reader.close()
    assert [block.event for block in blocks_of(text)] == ["run.step", "run.completed", "done"]
