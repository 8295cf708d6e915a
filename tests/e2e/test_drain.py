"""Deploys: a worker and an API process that are told to stop while much is going on."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import NewDatabase, execute
from tests.e2e.crew import QUESTION, WORD, Asked, all_end, ask_at_once, hire, started, under_way
from tests.e2e.invariants import check, check_logs
from tests.integration.test_streams import dechunk, stubborn
from tests.stack import Client, Stack, blocks_of, until
from tests.tabs import Visit, visit

LEASE_S = 60
"""Far longer than any test waits: what is picked up before was handed over."""
DRAIN_S = 3
SLOW, QUICK = f"Slowly: {QUESTION}", f"Quickly: {QUESTION}"
Note = Callable[[str, object], None]

WATCH_HOLDERS = """
CREATE TABLE holders (
    run_id text, worker_id text, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION note_holder() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO holders (run_id, worker_id) VALUES (NEW.id, NEW.worker_id);
    RETURN NULL;
END $$;
CREATE TRIGGER note_holder AFTER UPDATE OF worker_id ON runs FOR EACH ROW
    WHEN (OLD.worker_id IS DISTINCT FROM NEW.worker_id) EXECUTE FUNCTION note_holder();
"""
PICK_UPS = """
SELECT extract(epoch FROM taken.at - given.at)::float AS after_s, taken.worker_id
FROM holders given JOIN LATERAL (
    SELECT * FROM holders h
    WHERE h.run_id = given.run_id AND h.at > given.at ORDER BY h.at LIMIT 1
) taken ON true
WHERE given.worker_id IS NULL
"""
LATE_CLAIMS = "SELECT count(*) FROM holders WHERE worker_id = $1 AND at > $2"


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    url, folder = await new_database(), tmp_path_factory.mktemp("drain")
    settings = {"RUN_LEASE_S": str(LEASE_S), "WORKER_DRAIN_S": str(DRAIN_S)}
    async with started(url, folder, **settings, MAX_QUEUED_RUNS_PER_USER="1000") as stack:
        await execute(url, WATCH_HOLDERS)
        yield stack
        await check(url)
        check_logs(stack.logs(), WORD)


async def keep_asking(stack: Stack, asked: list[Asked]) -> None:
    """Put questions all the time, as a class does."""
    while True:
        asked += await ask_at_once(stack, 2, users=1, question=QUICK)
        await asyncio.sleep(0.1)


async def test_a_worker_that_is_stopped_under_load_ends_what_it_can_and_gives_the_rest_away(
    stack: Stack, record_property: Note
) -> None:
    for words, pace in (("Slowly", 4), ("Quickly", 100)):
        await stack.admin("POST", "pace", {"tokens_per_second": pace, "text": words})
    leaver = await hire(stack)
    slow = await ask_at_once(stack, 40, users=8, question=SLOW)
    await under_way(stack, slow, deltas=1)
    quick = await ask_at_once(stack, 10, users=5, question=QUICK)
    await under_way(stack, quick, deltas=1)
    heir = await hire(stack)
    late: list[Asked] = []
    load = asyncio.create_task(keep_asking(stack, late))
    # Those that go on elsewhere need not be waited for.
    await stack.admin("POST", "pace", {"tokens_per_second": 500, "text": "Slowly"})
    told, began = await stack.fetchval("SELECT clock_timestamp()"), time.monotonic()
    leaver.process.signal(signal.SIGTERM)
    assert await leaver.process.exit(DRAIN_S + 15) == 0, leaver.process.log.read_text()[-4000:]
    took = time.monotonic() - began
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)

    rows = {row["id"]: row for row in await all_end(stack, [*slow, *quick, *late])}
    assert {row["status"] for row in rows.values()} == {"completed"}
    for each in quick:
        row = rows[each.run]
        found = (row["worker_id"], row["attempts"], row["handovers"])
        assert found == (leaver.id, 1, 0), "it could end in time"
    for each in slow:
        row = rows[each.run]
        found = (row["worker_id"], row["attempts"], row["handovers"])
        assert found == (heir.id, 2, 1), "handed over, and generated once more"
    # A claim may have been on its way.
    await_s = "SELECT $1::timestamptz + interval '1 second'"
    claimed = await stack.fetchval(LATE_CLAIMS, leaver.id, await stack.fetchval(await_s, told))
    assert claimed == 0
    after_s = sorted(
        row["after_s"] for row in await stack.fetch(PICK_UPS) if row["worker_id"] == heir.id
    )
    assert len(after_s) == len(slow)
    assert after_s[-1] < 10, "at once, and not when a lease runs out"
    assert len(late) > 10
    record_property("exit_s", took)
    record_property("pick_up_s", (after_s[0], after_s[len(after_s) // 2], after_s[-1]))
    heir.process.signal(signal.SIGTERM)
    assert await heir.process.exit(DRAIN_S + 15) == 0


STREAMS = 300
STREAMS_A_USER = 20


async def is_refused(url: str) -> bool:
    """Tell whether nobody listens any more."""
    parts = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def deaf(url: str) -> float:
    """Return when the listener was found closed."""
    await until(lambda: is_refused(url), every=0.01)
    return time.monotonic()


async def read(client: Client, url: str, path: str) -> tuple[Visit, float]:
    headers = {"Authorization": f"Bearer {client.token}"}
    found = await visit(url, path, headers)
    return found, time.monotonic()


async def test_an_api_process_with_hundreds_of_streams_stops_at_once(
    stack: Stack, record_property: Note
) -> None:
    leaver = await stack.start_api()
    at = len(stack.api_urls) - 1
    url = stack.api_urls[at]
    worker = await hire(stack)
    await stack.admin("POST", "pace", {"tokens_per_second": 10, "text": "Slowly"})
    users = STREAMS // STREAMS_A_USER
    asked = await ask_at_once(stack, users, at=at, users=users, question=SLOW)
    await under_way(stack, asked)
    readers = [
        asyncio.create_task(read(each.client, url, path))
        for each in asked
        for path in [each.events, f"/v1/sessions/{each.session}/events?after=0"] * 10
    ]

    async def all_are_open() -> bool:
        left = [(await each.client.call("GET", "/v1/me", 200))["remaining"] for each in asked]
        return all(each["streams"] == 0 for each in left)

    await until(all_are_open, within=40)
    one = asked[0]
    waiting = asyncio.create_task(
        one.client.http.get(
            f"/v1/sessions/{one.session}/runs/{one.run}",
            params={"wait": 30, "known": "in_progress"},
        )
    )
    await asyncio.sleep(0.2)
    listening = asyncio.create_task(deaf(url))
    began = time.monotonic()
    leaver.signal(signal.SIGTERM)
    assert await leaver.exit(5) == 0, leaver.log.read_text()[-4000:]
    took = time.monotonic() - began
    found = await asyncio.gather(*readers)
    assert (await waiting).status_code == 200, "whoever waited is told how it stands"
    for visited, _ in found:
        assert visited.status == 200
        assert visited.body.endswith(b"\n\n"), "to the end of a block"
        assert visited.wire.endswith(b"0\r\n\r\n"), "to the end of the answer"
        assert b"event: done" not in visited.body
    last = max(at for _, at in found) - began
    assert last < 5
    refused = await listening - began
    assert refused < 5
    record_property("refused_s, last stream_s, exit_s", (refused, last, took))
    await stack.admin("POST", "pace", {"tokens_per_second": 500, "text": "Slowly"})
    # Hand the slow ones over to somebody who is served quickly.
    worker.process.signal(signal.SIGTERM)
    await hire(stack)
    assert await worker.process.exit(DRAIN_S + 15) == 0
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"completed"}


def half_a_request(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.sendall(b"GET /v1/me HTTP/1.1\r\nHost: x\r\nAuthori")
    return connection


async def test_readers_that_do_not_read_do_not_keep_a_process_that_is_stopped(
    stack: Stack,
) -> None:
    leaver = await stack.start_api()
    at = len(stack.api_urls) - 1
    client, url = stack.client(at=at), stack.api_urls[at]
    session = await client.open_session()
    # More than the kernel takes for a reader that takes nothing.
    for number in range(60):
        await client.post(session, f"{number} {WORD}" + "분수" * 15_000, run=False)
    path = f"/v1/sessions/{session}/events?after=0"
    with ExitStack() as held:
        slow = [held.enter_context(stubborn(url, client, path)) for _ in range(5)]
        held.enter_context(half_a_request(url))

        async def are_open() -> Any:
            me = await client.call("GET", "/v1/me", 200)
            return me["remaining"]["streams"] == 15

        await until(are_open)
        await asyncio.sleep(0.5)
        leaver.signal(signal.SIGTERM)
        assert await leaver.exit(5) == 0, leaver.log.read_text()[-4000:]
        for connection in slow:
            got = dechunk(await asyncio.to_thread(drain, connection))
            blocks = blocks_of(got[: got.rfind(b"\n\n") + 2].decode())
            assert [block.id for block in blocks] == [str(n + 1) for n in range(len(blocks))]


def drain(connection: socket.socket) -> bytes:
    received = b""
    try:
        while data := connection.recv(1 << 20):
            received += data
    except ConnectionResetError:
        pass
    return received
