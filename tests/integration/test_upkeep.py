"""Housekeeping: what is deleted goes upstream and here, deltas grow old, queued runs expire.

Duties are called in this process, on the database of processes whose worker has stopped: no
sweep of its own gets in between.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.adapters.files import WireFiles
from app.adapters.postgres.database import PostgresDatabase
from app.adapters.stores import WireStores
from app.container import make_upstream, make_upstream_files
from app.ports import Upstream
from app.services.queue import QueuePolicy, QueueService
from app.services.upkeep import UpkeepService
from app.settings import Settings
from tests.conftest import NewDatabase
from tests.stack import Client, Stack, blocks_of, running

DAY = timedelta(days=1)
TABLES = {
    "sessions": "id",
    "messages": "session_id",
    "runs": "session_id",
    "events": "session_id",
    "stream_tickets": "session_id",
}


@dataclass
class House:
    """A stack without a worker, conversations that one has had, and its services at hand."""

    stack: Stack
    client: Client
    database: PostgresDatabase
    upstream: Upstream
    files: WireFiles
    sessions: list[str]

    def upkeep(self, retention: timedelta = DAY) -> UpkeepService:
        stores = WireStores(self.files)
        return UpkeepService(self.database, self.upstream, self.files, stores, retention=retention)

    def queue(self, limit: timedelta) -> QueueService:
        policy = QueuePolicy(lease=DAY, lifetime=DAY, queue_limit=limit)
        return QueueService(self.database, "work_test", policy)

    async def hurry(self) -> None:
        """Let what is to be tried again later be due now."""
        for table in ("threads", "objects"):
            await self.stack.fetch(
                f"UPDATE upstream_{table} SET retry_at = now() WHERE deleted_at IS NULL"  # noqa: S608
            )

    async def rows(self, session: str) -> dict[str, int]:
        """How many rows each table has of a session."""
        return {
            table: await self.stack.fetchval(
                f"SELECT count(*) FROM {table} WHERE {column} = $1",  # noqa: S608 - our names
                session,
            )
            for table, column in TABLES.items()
        }

    async def thread(self, session: str) -> Any:
        (row,) = await self.stack.fetch(
            "SELECT * FROM upstream_threads WHERE session_id = $1", session
        )
        return row


async def conversation(client: Client) -> str:
    session = await client.open_session(title="Quadratics")
    run, _ = await client.ask(session, "Solve 2x = 6")
    assert run["status"] == "completed"
    await client.call("POST", f"/v1/sessions/{session}/stream_tickets", 201)
    return session


@pytest.fixture(scope="module")
async def house(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    folder: Path = tmp_path_factory.mktemp("upkeep")
    url = await new_database()
    async with running(url, folder) as stack:
        client = stack.client()
        sessions = await asyncio.gather(*(conversation(client) for _ in range(6)))
        worker = stack.processes[-1]
        worker.popen.terminate()
        assert await worker.exit(within=40) == 0
        database = PostgresDatabase(url, pool_size=5)
        base = f"http://127.0.0.1:{stack.sandbox_port}/v1"
        settings = Settings(_env_file=None, openai_api_key="x", openai_base_url=base)  # type: ignore[call-arg, arg-type]
        upstream = make_upstream(settings, database)
        files = make_upstream_files(settings)
        yield House(stack, client, database, upstream, files, sessions)
        await files.aclose()
        await upstream.aclose()
        await database.aclose()


@pytest.fixture
def session(house: House) -> str:
    """A session with an answered question, a ticket and a thread upstream."""
    return house.sessions.pop()


async def delete(house: House, session: str) -> None:
    await house.client.call("DELETE", f"/v1/sessions/{session}", 204)


async def test_a_deleted_session_goes_upstream_and_then_here(house: House, session: str) -> None:
    before = await house.stack.admin("GET", "stats")
    kept = await house.rows(house.sessions[0])
    assert all((await house.rows(session)).values())
    await delete(house, session)
    await house.upkeep().sweep()
    after = await house.stack.admin("GET", "stats")
    assert after["conversations"] == before["conversations"] - 1
    # Deleting a conversation alone would leave what was said.
    assert after["items"] == before["items"] - 2
    assert after["items_of_deleted_conversations"] == 0
    assert not any((await house.rows(session)).values())
    record = await house.thread(session)
    assert record["deleted_at"] >= record["retired_at"]
    assert await house.rows(house.sessions[0]) == kept


async def test_a_title_is_gone_before_the_upstream_answers(house: House, session: str) -> None:
    await delete(house, session)
    row = (await house.stack.fetch("SELECT title, meta FROM sessions WHERE id = $1", session))[0]
    assert row["title"] is None
    assert json.loads(row["meta"]) == {}
    await house.upkeep().sweep()


@pytest.mark.parametrize(
    "action",
    [{"type": "status", "status": 500}, {"type": "reset"}],
    ids=["refused", "cut"],
)
async def test_what_the_upstream_would_not_delete_is_tried_again(
    house: House, session: str, action: dict[str, Any]
) -> None:
    thread = (await house.thread(session))["thread_id"]
    path = f"/v1/conversations/{thread}*"
    rule = {"method": "DELETE", "path": path, "times": None, "action": action}
    await house.stack.admin("POST", "faults", rule)
    await delete(house, session)
    for _ in range(2):
        await house.hurry()
        await house.upkeep().sweep()
        assert (await house.thread(session))["deleted_at"] is None
        assert (await house.rows(session))["sessions"] == 1
        await house.client.call("GET", f"/v1/sessions/{session}", 404)
    await house.stack.admin("DELETE", "faults")
    # Not before its time.
    await house.upkeep().sweep()
    assert (await house.thread(session))["deleted_at"] is None
    await house.hurry()
    await house.upkeep().sweep()
    assert (await house.thread(session))["deleted_at"] is not None
    assert not any((await house.rows(session)).values())


async def test_a_thread_that_is_gone_already_is_no_obstacle(house: House, session: str) -> None:
    thread = (await house.thread(session))["thread_id"]
    await house.upstream.delete_thread(thread)
    await delete(house, session)
    await house.upkeep().sweep()
    assert not any((await house.rows(session)).values())


async def test_one_thread_that_cannot_be_deleted_does_not_keep_the_others(
    house: House,
) -> None:
    """What was retired first must not stand in the way of all that came later."""
    stuck, free = [await house.client.open_session() for _ in range(2)]
    ids = {found: (await house.upstream.open_thread([])) for found in (stuck, free)}
    for found, opened in ids.items():
        assert opened is not None
        await house.stack.fetch(
            "INSERT INTO upstream_threads (thread_id, session_id) VALUES ($1, $2)",
            opened.thread_id,
            found,
        )
        await delete(house, found)
        await house.stack.fetch(
            "UPDATE upstream_threads SET retired_at = now() WHERE session_id = $1", found
        )
    path = f"/v1/conversations/{ids[stuck].thread_id}*"  # type: ignore[union-attr]
    rule = {"path": path, "times": None, "action": {"type": "status", "status": 500}}
    await house.stack.admin("POST", "faults", rule)
    for _ in range(2):
        await house.hurry()
        await house.upkeep().sweep()
    assert (await house.rows(stuck))["sessions"] == 1
    assert (await house.rows(free))["sessions"] == 0
    await house.stack.admin("DELETE", "faults")
    await house.hurry()
    await house.upkeep().sweep()
    assert (await house.rows(stuck))["sessions"] == 0


async def test_a_session_without_a_thread_goes_at_once(house: House) -> None:
    session = await house.client.open_session()
    await house.client.post(session, "Hello.", run=False)
    await delete(house, session)
    await house.upkeep().sweep()
    assert not any((await house.rows(session)).values())


async def test_old_deltas_go_and_the_messages_stay(house: House) -> None:
    session = house.sessions[0]
    path = f"/v1/sessions/{session}"
    before = await house.client.call("GET", f"{path}/messages", 200)
    whole = blocks_of(await run_events(house, session))
    await house.upkeep(DAY).sweep()
    assert blocks_of(await run_events(house, session)) == whole
    await house.upkeep(timedelta(0)).sweep()
    assert await house.client.call("GET", f"{path}/messages", 200) == before
    left = blocks_of(await run_events(house, session))
    assert left == [block for block in whole if block.event != "message.delta"]
    # A reader that had yet to read some of the deltas is told where it stands.
    first = next(block for block in whole if block.event == "message.delta")
    told = blocks_of(await run_events(house, session, after=int(first.id or 0) - 1))
    assert told[0].event == "reset"
    shown = json.loads(told[0].data)["messages"]
    assert shown == before["data"][::-1]
    await house.upkeep(timedelta(0)).sweep()
    assert blocks_of(await run_events(house, session)) == left


async def run_events(house: House, session: str, **params: Any) -> str:
    runs = await house.client.call("GET", f"/v1/sessions/{session}/runs", 200)
    path = f"/v1/sessions/{session}/runs/{runs['data'][0]['id']}/events"
    return await house.client.stream(path, params=params)


async def test_a_run_that_nobody_claims_expires(house: House) -> None:
    session = await house.client.open_session()
    posted = await house.client.post(session, "Solve 2x = 6")
    waiting = posted["run"]["id"]
    assert await house.queue(DAY).expire_overdue() == 0
    assert (await house.client.run(session, waiting))["status"] == "queued"
    assert await house.queue(timedelta(0)).expire_overdue() == 1
    run = await house.client.run(session, waiting)
    assert (run["status"], run["attempts"]) == ("expired", 0)
    assert run["last_error"]["code"] == "queue_timeout"
    assert run["last_error"]["message"]
    assert run["ended_at"] is not None
    blocks = blocks_of(await run_events(house, session))
    assert [b.event for b in blocks] == ["message.created", "run.queued", "run.expired", "done"]
    assert json.loads(blocks[-2].data)["run"] == run
    assert await house.queue(timedelta(0)).expire_overdue() == 0
    # The next question waits anew.
    later = await house.client.post(session, "And now?")
    assert later["run"]["status"] == "queued"
    await delete(house, session)
    await house.upkeep().sweep()


async def test_old_tickets_are_forgotten(house: House) -> None:
    session = await house.client.open_session()
    brief = house.stack.client(user=house.client.user, ttl=3600)
    token = uuid.uuid4().bytes
    user = await house.stack.fetchval("SELECT user_id FROM sessions WHERE id = $1", session)
    await house.stack.fetch(
        "INSERT INTO stream_tickets (digest, user_id, session_id, use_by, expires_at)"
        " VALUES ($1, $2, $3, now() - interval '2h', now() - interval '1h')",
        token,
        user,
        session,
    )
    await brief.call("POST", f"/v1/sessions/{session}/stream_tickets", 201)
    left = "SELECT count(*) FROM stream_tickets WHERE digest = $1"
    assert await house.stack.fetchval(left, token) == 0
    await delete(house, session)
    await house.upkeep().sweep()
