"""Wake-ups: what changed, or that anything may have; never nothing when something did."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from app.adapters.postgres import wakeups as module
from app.adapters.postgres.wakeups import CHANNELS, NEW_RUN, PostgresWakeUps, payload_of
from app.ports import Wake, Wakes
from tests.conftest import NewDatabase
from tests.integration.test_log import Desk, desk_on, says
from tests.stack import until

LISTENERS = """SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND pid <> pg_backend_pid() AND application_name = 'tutor-relay-listen'
    AND (query ILIKE 'LISTEN%' OR query = 'SELECT 1')"""
LONG = timedelta(seconds=30)


@pytest.fixture(scope="module")
async def own_database(new_database: NewDatabase) -> str:
    return await new_database()


@pytest.fixture
async def desk(own_database: str) -> AsyncIterator[Desk]:
    async with desk_on(own_database) as found:
        yield found


async def listeners(desk: Desk) -> list[int]:
    connection = await asyncpg.connect(desk.url)
    try:
        return [row["pid"] for row in await connection.fetch(LISTENERS)]
    finally:
        await connection.close()


async def heard(wakes: Wakes, *, count: int = 1) -> list[str]:
    """Collect named wake-ups until there are so many names."""
    names: list[str] = []
    async with asyncio.timeout(20):
        while len(names) < count:
            names += await wakes.next(within=LONG) or []
    return names


async def told(wakes: Wakes) -> Wake:
    """Return a wake-up that came by itself: that time is up looks the same as anything."""
    async with asyncio.timeout(LONG.total_seconds() / 2):
        return await wakes.next(within=LONG)


async def test_who_begins_to_listen_is_told_that_anything_may_have_changed(desk: Desk) -> None:
    async with PostgresWakeUps(desk.url).listen("events") as wakes:
        assert await told(wakes) is None
        assert await wakes.next(within=timedelta(milliseconds=50)) is None, "time is up"
    assert await listeners(desk) == []


async def test_an_append_names_its_session_after_its_commit(desk: Desk) -> None:
    _, session = await desk.session()
    async with PostgresWakeUps(desk.url).listen("events") as wakes:
        assert await told(wakes) is None
        await desk.append(says(session, "text"))
        assert await heard(wakes) == [session]
        with pytest.raises(ZeroDivisionError):
            await desk.append_in_vain(says(session, "lost"))
        await desk.append(says(session, "more"))
        assert await heard(wakes) == [session]
        assert await wakes.next(within=timedelta(milliseconds=50)) is None


async def test_what_came_meanwhile_is_one_wake_up(desk: Desk) -> None:
    sessions = [(await desk.session())[1] for _ in range(5)]
    async with PostgresWakeUps(desk.url).listen("events") as wakes:
        assert await told(wakes) is None
        for _ in range(3):
            for session in sessions:
                await desk.append(says(session, "text"))
        assert sorted(set(await heard(wakes, count=5))) == sorted(sessions)
        wakes.add(["a", "b"])
        wakes.add(["b"])
        wakes.add([])
        assert await told(wakes) == ["a", "b"]
        wakes.add(["a"])
        wakes.add(None)
        assert await told(wakes) is None, "anything is more than a name"
        wakes.add(["c"])
        assert await told(wakes) == ["c"]


async def test_workers_hear_of_new_runs_and_of_anything_else_apart(desk: Desk) -> None:
    user, session = await desk.session()
    async with PostgresWakeUps(desk.url).listen("work") as wakes:
        assert await told(wakes) is None
        run = await desk.waiting(user, session)
        assert await told(wakes) == [NEW_RUN]
        await desk.runs.cancel(user, session, run.id)
        assert await told(wakes) is None
        await desk.sessions.delete(user, session)
        assert await told(wakes) is None


@pytest.mark.parametrize("count", [1, 200, 240, 300, 5000])
async def test_a_payload_is_never_larger_than_postgres_takes(desk: Desk, count: int) -> None:
    names = [f"sess_{number:027d}" for number in range(count)]
    payload = payload_of(names)
    assert len(payload) < 8000
    assert payload.split(",") == names if payload else count > 200
    async with PostgresWakeUps(desk.url).listen("events") as wakes:
        assert await told(wakes) is None
        await desk.execute("SELECT pg_notify($1, $2)", CHANNELS["events"], payload)
        found = await told(wakes)
        assert found == names if payload else found is None


async def test_a_lost_connection_is_replaced_and_what_was_missed_may_be_anything(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEALTH_CHECK", timedelta(seconds=0.1))
    monkeypatch.setattr(module, "RECONNECT", timedelta(seconds=0.7))
    _, session = await desk.session()
    async with PostgresWakeUps(desk.url).listen("events") as wakes:
        assert await told(wakes) is None
        for _ in range(2):
            (pid,) = await listeners(desk)
            await desk.execute("SELECT pg_terminate_backend($1)", pid)
            await desk.append(says(session, "while nobody listened"))
            assert await told(wakes) is None, "the loss is noticed"
            await desk.append(says(session, "before anybody listens again"))
            assert await told(wakes) in (None, [session]), "and so is the return"

            async def is_back(gone: int = pid) -> bool:
                return [found for found in await listeners(desk) if found != gone] != []

            await until(is_back)
            while await wakes.next(within=timedelta(seconds=0.2)) is not None:
                pass
            await desk.append(says(session, "again"))
            assert await heard(wakes) == [session]


async def test_a_database_that_is_not_there_yet_is_waited_for(
    own_database: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECONNECT", timedelta(seconds=0.1))
    database = f"later_{uuid.uuid4().hex[:12]}"
    later = urlunsplit(urlsplit(own_database)._replace(path=f"/{database}"))
    async with PostgresWakeUps(later).listen("work") as wakes:
        assert await told(wakes) is None
        await desk.execute(f'CREATE DATABASE "{database}"')
        try:

            async def listens() -> bool:
                query = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
                return bool(await desk.value(query, database))

            await until(listens)
        finally:
            await desk.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
