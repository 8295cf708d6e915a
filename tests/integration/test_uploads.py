"""Uploads that are large, slow or cut off: nothing is held whole, and nothing is left behind."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.conftest import NewDatabase
from tests.integration.test_files import PNG, send
from tests.stack import Client, Stack, running, until

MIB = 1 << 20
LARGE = 64 * MIB
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
KEPT = "SELECT count(*) FROM upstream_objects WHERE kind = 'file' AND retired_at IS NULL"
GONE = "SELECT count(*) FROM upstream_objects WHERE kind = 'file' AND deleted_at IS NULL"


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("uploads")
    url = await new_database()
    limits = {"MAX_FILE_BYTES": str(LARGE), "MAX_UPLOADS": "3", "FILE_TIMEOUT_S": "60"}
    async with running(url, folder, **limits) as found:  # type: ignore[arg-type]
        yield found


@pytest.fixture
def client(stack: Stack) -> Client:
    return stack.client()


async def pieces(total: int, *, pause_at: int = -1, piece: int = MIB) -> AsyncIterator[bytes]:
    """A form with a file of so many bytes; it stops for good where it is told to."""
    yield HEAD
    sent = len(PNG)
    yield PNG
    while sent < total:
        if 0 <= pause_at <= sent:
            await asyncio.sleep(3600)
        size = min(piece, total - sent)
        yield bytes(size)
        sent += size
    yield b"\r\n--b--\r\n"


async def is_settled(stack: Stack) -> bool:
    """Whether nothing is upstream but what is kept here."""
    files = await stack.fetchval("SELECT count(*) FROM files")
    there = (await stack.admin("GET", "stats"))["files"]
    open_entries = await stack.fetchval(GONE)
    return bool(files == there == open_entries)


async def test_a_large_file_passes_without_being_held(stack: Stack, client: Client) -> None:
    api = psutil.Process(stack.processes[1].popen.pid)
    await send(client)
    before = api.memory_info().rss
    highest = before
    seen_files = 0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal highest, seen_files
        while not done.is_set():
            highest = max(highest, api.memory_info().rss)
            busy = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
            seen_files = max(seen_files, await stack.fetchval(busy))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    response = await client.http.post(
        "/v1/files", content=pieces(LARGE), headers=FORM, timeout=120
    )
    done.set()
    await watching
    assert response.status_code == 201, response.text
    assert response.json()["bytes"] == LARGE
    grown = (highest - before) / MIB
    print(f"64 MiB passed; the api grew by {grown:.1f} MiB")  # noqa: T201 - worth knowing
    assert grown < LARGE / MIB / 2
    await client.call("DELETE", f"/v1/files/{response.json()['id']}", 204)


async def test_one_byte_too_many_is_refused_and_leaves_nothing(
    stack: Stack, client: Client
) -> None:
    content = pieces(LARGE + 1)
    response = await client.http.post("/v1/files", content=content, headers=FORM, timeout=120)
    assert response.status_code == 413
    assert response.json()["code"] == "file_too_large"
    assert (await client.call("GET", "/v1/files", 200))["data"] == []
    await until(lambda: is_settled(stack), within=90)


async def test_other_bodies_are_as_small_as_ever(client: Client) -> None:
    body = b"[" + bytes(3 * MIB)
    response = await client.http.post("/v1/sessions", content=body)
    assert response.status_code == 413
    assert (await client.http.put("/v1/files", content=body)).status_code in {405, 413}


async def _cut(client: Client, *, after: int) -> None:
    """Send the beginning of a file, and hang up."""
    url = httpx2.URL(str(client.http.base_url))
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {LARGE}\r\n\r\n"
    )
    writer.write(head.encode() + HEAD + PNG + bytes(after))
    await writer.drain()
    await asyncio.sleep(0.3)
    writer.transport.abort()


@pytest.mark.parametrize("after", [0, 100_000, 5 * MIB])
async def test_a_client_that_goes_away_leaves_nothing(
    stack: Stack, client: Client, after: int
) -> None:
    await _cut(client, after=after)
    await until(lambda: is_settled(stack), within=90)
    assert (await client.call("GET", "/v1/files", 200))["data"] == []
    assert (await client.call("GET", "/v1/me", 200))["remaining"]["files"] == 200


async def test_too_many_at_once_are_refused(stack: Stack, client: Client) -> None:
    slow = [
        asyncio.create_task(
            client.http.post("/v1/files", content=pieces(LARGE, pause_at=1), headers=FORM)
        )
        for _ in range(3)
    ]
    user = (await client.call("GET", "/v1/me", 200))["id"]

    async def are_under_way() -> bool:
        query = "SELECT count(*) FROM upstream_objects WHERE user_id = $1"
        return bool(await stack.fetchval(query, user) == 3)

    await until(are_under_way)
    found = await send(client, expect=503)
    assert found["code"] == "too_many_uploads"
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    await until(lambda: is_settled(stack), within=90)
    await send(client)


@asynccontextmanager
async def hanging_up(after: int) -> AsyncIterator[int]:
    """An upstream that reads so much of a request, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = after
        while left > 0 and (piece := await reader.read(min(left, 65536))):
            left -= len(piece)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


@pytest.mark.parametrize("after", [0, 1000, 3 * MIB])
async def test_an_upstream_that_hangs_up_is_told_of(
    stack: Stack, client: Client, after: int
) -> None:
    async with hanging_up(after) as port:
        base = f"http://127.0.0.1:{port}/v1"
        api = await stack.start_api(OPENAI_BASE_URL=base, MAX_FILE_BYTES=str(LARGE))
        other = Client(stack.api_urls.pop(), client.user)
        content = pieces(8 * MIB)
        response = await other.http.post("/v1/files", content=content, headers=FORM, timeout=60)
        await other.close()
        api.popen.send_signal(signal.SIGTERM)
        assert await api.exit(within=20) == 0
    assert response.status_code == 502, response.text
    assert response.json()["code"] == "upstream_interrupted"
    assert "Traceback" not in api.log.read_text()
    await until(lambda: is_settled(stack), within=90)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_process_that_is_stopped_leaves_nothing(
    stack: Stack, client: Client, number: signal.Signals
) -> None:
    api = await stack.start_api(MAX_FILE_BYTES=str(LARGE))
    other = Client(stack.api_urls.pop(), client.user)
    content = pieces(LARGE, pause_at=3 * MIB)
    sending = asyncio.create_task(other.http.post("/v1/files", content=content, headers=FORM))
    user = (await client.call("GET", "/v1/me", 200))["id"]
    query = "SELECT name FROM upstream_objects WHERE user_id = $1"
    await until(lambda: stack.fetchval(query, user))
    api.popen.send_signal(number)
    assert await api.exit(within=20) == (0 if number is signal.SIGTERM else -9)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await other.close()
    if number is signal.SIGKILL:
        # Nobody was left to say so: in an hour it is taken for given up.
        assert await stack.fetchval(KEPT + " AND user_id = $1", user) == 1
        await stack.fetch(
            "UPDATE upstream_objects SET opened_at = now() - interval '61 minutes'"
            " WHERE user_id = $1",
            user,
        )
    await until(lambda: is_settled(stack), within=90)
    assert await stack.fetchval(GONE + " AND user_id = $1", user) == 0
    assert "Traceback" not in api.log.read_text()


async def test_a_slow_sender_is_cut(stack: Stack, client: Client) -> None:
    api = await stack.start_api(FILE_TIMEOUT_S="2")
    other = Client(stack.api_urls.pop(), client.user)
    url = httpx2.URL(str(other.http.base_url))
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {other.token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n"
    )
    writer.write(head.encode() + HEAD + PNG)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)
    assert answer.split()[1] in {b"408", b"502"}
    writer.close()
    await other.close()
    api.popen.send_signal(signal.SIGTERM)
    assert await api.exit(within=20) == 0
    await until(lambda: is_settled(stack), within=90)
