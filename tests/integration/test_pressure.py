"""Limits of the whole: a full queue, a crowd of requests, bodies that do not come."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from tests.conftest import NewDatabase
from tests.e2e.crew import hire, started
from tests.integration.test_log import desk_on, says
from tests.stack import Client, Stack, until

PATIENCE_S = 2
WAITING = """(
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock')"""


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Two API processes with low limits, and no worker yet."""
    settings = {
        "MAX_QUEUED_RUNS": "4",
        "MAX_BODIES": "3",
        "BODY_TIMEOUT_S": str(PATIENCE_S),
    }
    folder = tmp_path_factory.mktemp("pressure")
    async with started(await new_database(), folder, apis=2, **settings) as made:
        yield made


def assert_not_now(response: httpx2.Response, code: str) -> None:
    assert response.status_code == 503, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code
    assert int(response.headers["retry-after"]) >= 1


async def test_the_queue_is_bounded_over_all_users(stack: Stack) -> None:
    body, key = {"content": "What is 20 + 22?"}, {"Idempotency-Key": "first"}
    asked: list[tuple[Client, str, Any]] = []
    for _ in range(4):
        client = stack.client()
        session = await client.open_session()
        path = f"/v1/sessions/{session}/messages"
        asked.append(
            (client, session, await client.call("POST", path, 202, json=body, headers=key))
        )
    late = [stack.client(at=0), stack.client(at=1)]
    for client in late:
        session = await client.open_session()
        path = f"/v1/sessions/{session}"
        assert_not_now(await client.http.post(f"{path}/messages", json=body), "queue_full")
        streamed = {"Accept": "text/event-stream"}
        refused = await client.http.post(f"{path}/messages", json=body, headers=streamed)
        assert_not_now(refused, "queue_full")
        # Nothing is left of it; and what is only stored waits for nobody.
        assert (await client.call("GET", path, 200))["last_seq"] == 0
        await client.call("POST", f"{path}/messages", 202, json=body | {"run": False})
        assert_not_now(await client.http.post(f"{path}/runs", json={}), "queue_full")
    # Who asks again what was accepted needs no room.
    client, session, first = asked[0]
    path = f"/v1/sessions/{session}/messages"
    assert await client.call("POST", path, 202, json=body, headers=key) == first
    await hire(stack)
    for client, session, posted in asked:
        run = await client.ended(session, posted["run"]["id"])
        assert run["status"] == "completed"
    for client in late:

        async def is_taken(client: Client = client) -> bool:
            session = await client.open_session()
            path = f"/v1/sessions/{session}/messages"
            return (await client.http.post(path, json=body)).status_code == 202

        await until(is_taken)


async def test_more_requests_at_once_than_can_be_answered_soon_are_refused(stack: Stack) -> None:
    client = stack.client()
    session = await client.open_session()
    path = f"/v1/sessions/{session}/messages"
    note = {"content": "Note.", "run": False}
    connection = await asyncpg.connect(stack.database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM sessions WHERE id = $1 FOR UPDATE", session)
            held = [asyncio.create_task(client.http.post(path, json=note)) for _ in range(3)]
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"

            async def all_wait() -> bool:
                return bool(await stack.fetchval(query) == 3)

            await until(all_wait)
            assert_not_now(await client.http.post(path, json=note), "overloaded")
            # What has no body, and the other process, go on.
            assert (await client.http.get(f"/v1/sessions/{session}")).status_code == 200
            assert (await client.http.get("/readyz")).status_code == 200
            await stack.client(at=1).open_session()
        assert [response.status_code for response in await asyncio.gather(*held)] == [202] * 3
    finally:
        await connection.close()
    await client.call("POST", path, 202, json=note)


async def send_slowly(stack: Stack, token: str, *, every_s: float) -> tuple[bytes, float]:
    """Announce a body and send a byte of it now and then; return the answer, and when it came."""
    url = urlsplit(stack.api_urls[0])
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    begun = time.monotonic()
    head = (
        "POST /v1/sessions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n"
    )
    writer.write(head.encode())

    async def drip() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(every_s)

    dripping = asyncio.create_task(drip())
    try:
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S + 20)
        return answer, time.monotonic() - begun
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()


@pytest.mark.parametrize("every_s", [0.1, 60], ids=["drips", "stalls"])
async def test_a_body_that_comes_too_slowly_is_refused(stack: Stack, every_s: float) -> None:
    client = stack.client()
    # More than may be answered at once: a body that is not there takes no place.
    slow = [
        asyncio.create_task(send_slowly(stack, client.token, every_s=every_s)) for _ in range(6)
    ]
    await client.open_session()
    for answer, took_s in await asyncio.gather(*slow):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["code"] == "body_too_slow"
        assert took_s >= PATIENCE_S


HEADS = {
    "one header": (b"GET /healthz HTTP/1.1\r\nX-Long: ", b"a" * 65_536),
    "many headers": (b"GET /healthz HTTP/1.1\r\n", b"X-More: 1\r\n" * 6_000),
    "trailers": (
        b"POST /v1/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
        b"X-More: 1\r\n" * 6_000,
    ),
}


@pytest.mark.parametrize("kind", HEADS)
async def test_headers_without_end_are_cut(stack: Stack, kind: str) -> None:
    url = urlsplit(stack.api_urls[0])
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    begin, more = HEADS[kind]
    sent = 0

    async def send() -> None:
        nonlocal sent
        writer.write(begin)
        while sent < 64 << 20:
            writer.write(more)
            await writer.drain()
            sent += len(more)

    try:
        with suppress(ConnectionError):
            await asyncio.wait_for(send(), 30)
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 30)
    finally:
        writer.close()
    # What is on its way counts, too.
    assert sent < 32 << 20
    assert (await stack.client().http.get("/readyz")).status_code == 200


NO_REQUESTS = {
    "an unknown method": b"FOO /v1/me HTTP/1.1\r\n\r\n",
    "a NUL in a header": b"GET /v1/me HTTP/1.1\r\nX-A: \x00\r\n\r\n",
    "a length in words": (b"POST /v1/sessions HTTP/1.1\r\nContent-Length: long\r\n\r\n"),
}


@pytest.mark.parametrize("kind", NO_REQUESTS)
async def test_what_is_no_request_is_told_so_as_every_other_error_is(
    stack: Stack, kind: str
) -> None:
    url = urlsplit(stack.api_urls[0])
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(NO_REQUESTS[kind])
    head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (400, "invalid_http")


async def test_long_headers_and_long_bodies_are_taken(stack: Stack) -> None:
    client = stack.client()
    headers = {"X-Long": "a" * 32_000, "Content-Type": "application/json"}
    body = b'{"title":"x"}' + b" " * 1_900_000
    response = await client.http.post("/v1/sessions", content=body, headers=headers)
    assert response.status_code == 201, response.text


async def test_who_waits_for_a_locked_session_keeps_no_stream_waiting(
    database_url: str, tmp_path: Path
) -> None:
    """As a browser does, whose student asks once more and once more: six connections."""
    body = {"content": "What is 1 + 1?", "run": False}
    async with started(database_url, tmp_path) as stack, desk_on(database_url) as desk:
        stuck, reader = stack.client(), stack.client()
        held, other = await stuck.open_session(), await reader.open_session()
        holder = await asyncpg.connect(database_url)
        path = f"/v1/sessions/{other}/events"
        async with holder.transaction(), reader.http.stream("GET", path) as stream:
            await holder.fetch("SELECT FROM sessions WHERE id = $1 FOR UPDATE", held)
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("retry:")
            posts = [
                asyncio.create_task(stuck.http.post(f"/v1/sessions/{held}/messages", json=body))
                for _ in range(6)
            ]
            assert await until(lambda: desk.value(f"SELECT {WAITING} >= 4"))
            assert not await desk.append(says(other, "news"))
            async for line in lines:
                if '"news"' in line:
                    break
            assert not any(post.done() for post in posts)
            for post in posts:
                assert_not_now(await post, "storage_busy")
        await holder.close()
