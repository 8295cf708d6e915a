"""Streams as their readers see them: what is sent, when it ends, who is refused."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
import uvicorn
from pydantic import SecretStr

from app.adapters.postgres.wakeups import CHANNELS
from app.api.protocol import AbortableProtocol
from app.domain.errors import ShuttingDownError
from app.domain.events import Delta
from app.main import create_app
from app.ports import Append
from app.services import relay, streams
from app.settings import Settings
from tests.integration.test_log import Desk, desk_on
from tests.stack import SECRET, Block, Client, Stack, blocks_of, done_after, until

SSE = {"Accept": "text/event-stream"}


class Reader:
    """What one open stream was sent so far."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.raw = b""
        self.is_over = False
        self._news = asyncio.Event()

    async def pump(self) -> None:
        # A stream that is cut rather than ended is over, too.
        with suppress(httpx2.RemoteProtocolError, httpx2.ReadError):
            async for chunk in self.response.aiter_raw():
                self.raw += chunk
                self._news.set()
        self.is_over = True
        self._news.set()

    @property
    def blocks(self) -> list[Block]:
        return whole_blocks(self.raw)

    async def until(self, check: Callable[["Reader"], bool], *, within: float = 30) -> None:
        async with asyncio.timeout(within):
            while not check(self):
                assert not self.is_over, self.raw[-500:]
                self._news.clear()
                await self._news.wait()

    async def ends(self, *, within: float = 30) -> list[Block]:
        await self.until(lambda reader: reader.is_over, within=within)
        return self.blocks


def whole_blocks(raw: bytes) -> list[Block]:
    """Parse what is there to the end of its last whole block."""
    return blocks_of(raw[: raw.rfind(b"\n\n") + 2].decode())


def shown(blocks: list[Block]) -> list[tuple[str | None, str, str]]:
    return [(block.id, block.event, block.data) for block in blocks]


def text_of(blocks: list[Block], start: str = "") -> str:
    """Add up the deltas since the last reset."""
    text = start
    for block in blocks:
        if block.event == "message.reset":
            text = ""
        elif block.event == "message.delta":
            text += json.loads(block.data)["text"]
    return text


@asynccontextmanager
async def reading(
    client: Client, path: str, *, method: str = "GET", **arguments: Any
) -> AsyncIterator[Reader]:
    async with client.http.stream(method, path, **arguments) as response:
        if response.status_code != httpx2.codes.OK:
            await response.aread()
        assert response.status_code == httpx2.codes.OK, response.text
        reader = Reader(response)
        task = asyncio.create_task(reader.pump())
        try:
            yield reader
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def events_of(session: str, run: str | None = None) -> str:
    return f"/v1/sessions/{session}/" + (f"runs/{run}/events" if run else "events")


async def streams_left(client: Client) -> int:
    found = (await client.call("GET", "/v1/me", 200))["remaining"]["streams"]
    return int(found)


@pytest.fixture
async def desk(shared: Stack) -> AsyncIterator[Desk]:
    """Writes to logs from outside of every process."""
    async with desk_on(shared.database_url, pool_size=4) as found:
        yield found


async def say(desk: Desk, session: str, *texts: str) -> None:
    deltas = [Delta("msg_none", "run_none", 0, [text]) for text in texts]
    assert not await desk.append(Append(session, [*deltas]))


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Any:
        yield


@asynccontextmanager
async def in_process(
    database_url: str, *, listen: str = "127.0.0.1", **settings: Any
) -> AsyncIterator[str]:
    """The API in this process, where constants can be changed; yields its URL."""
    chosen = Settings(
        _env_file=None,
        database_url=SecretStr(database_url),
        auth_jwt_secret=SecretStr(SECRET),
        log_level="warning",
        **settings,
    )
    app = create_app(chosen)
    config = uvicorn.Config(
        app,
        host=listen,
        port=0,
        loop="none",
        http=AbortableProtocol,
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=3,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve())

    async def is_up() -> bool:
        assert not task.done()
        return server.started

    try:
        await until(is_up)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        app.state.services.relay.close()
        server.should_exit = True
        await task


# ---------------------------------------------------------------- what is sent


async def test_a_stream_has_the_headers_that_keep_it_flowing(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    retries = set()
    for _ in range(3):
        async with reading(client, events_of(session)) as reader:
            headers = reader.response.headers
            assert headers["content-type"] == "text/event-stream; charset=utf-8"
            assert headers["cache-control"].split(",")[0] == "no-store"
            assert headers["x-accel-buffering"] == "no"
            assert "content-length" not in headers
            await reader.until(lambda each: b"\n\n" in each.raw)
            name, _, value = reader.raw.decode().strip().partition(": ")
            assert name == "retry", "before anything else"
            retries.add(int(value))
    assert all(1000 <= each <= 3000 for each in retries)
    assert len(retries) > 1, "jittered"


async def test_a_session_s_stream_from_now_shows_only_what_follows(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    await client.ask(session, "What is 1 + 1?")
    before = (await client.call("GET", f"/v1/sessions/{session}", 200))["last_seq"]
    async with reading(client, events_of(session)) as reader:
        await client.ask(session, "What is 2 + 2?")
        await reader.until(lambda each: each.blocks[-1:] and each.blocks[-1].event[:5] == "run.c")
        await client.post(session, "Only stored.", run=False)
        await reader.until(lambda each: each.blocks[-1].event == "message.created")
    seqs = [int(block.id or 0) for block in reader.blocks]
    assert seqs == list(range(before + 1, before + 1 + len(seqs)))
    assert [block.event for block in reader.blocks if block.event != "message.delta"] == [
        "message.created",
        "run.queued",
        "run.in_progress",
        "message.created",
        "message.completed",
        "run.completed",
        "message.created",
    ]
    for block in reader.blocks:
        data = json.loads(block.data)
        assert data["type"] == block.event
        assert data["session_id"] == session
        assert str(data["seq"]) == block.id


async def test_a_run_s_stream_tells_its_question_first_and_ends_with_done(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    first = await client.post(session, "What is 1 + 1?")
    second = await client.post(session, "x**2 - x - 1 = 0 을 풀어줘", on_active_run="enqueue")
    run_id = second["run"]["id"]
    async with reading(client, events_of(session, run_id)) as reader:
        blocks = await reader.ends()
    assert (blocks[0].event, blocks[1].event) == ("message.created", "run.queued")
    assert json.loads(blocks[0].data)["message"] == second["message"]
    assert json.loads(blocks[1].data)["run"] == second["run"]
    assert shown(blocks[-1:]) == [(None, "done", done_after(blocks[-2].data))]
    assert blocks[-2].event == "run.completed"
    assert first["run"]["id"] not in reader.raw.decode()
    assert [block.event for block in blocks].count("done") == 1
    run = await client.run(session, run_id)
    assert json.loads(blocks[-2].data)["run"] == run
    message = json.loads(blocks[-3].data)["message"]
    path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
    assert message == await client.call("GET", path, 200)
    assert text_of(blocks) == message["content"][0]["text"]


async def test_a_post_that_accepts_a_stream_is_the_run_s_stream(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    path = f"/v1/sessions/{session}/messages"
    for _ in range(5):
        body = {"content": "분수 1/2 + 1/3 을 계산해줘\u2028\u0085"}
        async with reading(client, path, method="POST", json=body, headers=SSE) as reader:
            location = reader.response.headers["location"]
            posted = await reader.ends()
        other = shared.client(at=1, user=client.user)
        async with reading(other, f"{location}/events") as again:
            got = await again.ends()
        assert shown(posted) == shown(got)
        assert posted[-1].event == "done"


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("TEXT/Event-Stream", True),
        ("text/event-stream; charset=utf-8", True),
        ("application/json;q=0.5, text/event-stream;q=0.1", True),
        ("text/event-stream;q=0", False),
        ("application/json, text/event-stream; Q=0.00", False),
        ("text/event-streams", False),
        ("*/*", False),
        (";, ,=", False),
    ],
)
async def test_a_stream_is_what_the_accept_header_says(
    shared: Stack, accept: str, *, is_stream: bool
) -> None:
    client = shared.client()
    path = f"/v1/sessions/{await client.open_session()}/messages"
    body, headers = {"content": "1"}, {"Accept": accept}
    async with client.http.stream("POST", path, json=body, headers=headers) as response:
        assert response.status_code == (200 if is_stream else 202)


async def test_two_readers_of_a_session_get_the_very_same_bytes(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    others = [shared.client(at=at % 2, user=client.user) for at in range(4)]
    async with AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(reading(other, events_of(session))) for other in others
        ]
        posted = await client.post(session, "3x**2 + 11x - 10 = 0 을 자세히 풀어줘")
        run = await client.ended(session, posted["run"]["id"])
        assert run["status"] == "completed"
        for reader in readers:
            await reader.until(lambda each: b"event: run.completed" in each.raw)
            await reader.until(lambda each: each.raw.endswith(b"\n\n"))
        # All but `retry:`, which is each reader's own.
        assert len({reader.raw.partition(b"\n\n")[2] for reader in readers}) == 1


async def test_what_is_loaded_and_what_follows_it_make_the_whole_at_any_moment(
    shared: Stack,
) -> None:
    client = shared.client()
    clients = [client, shared.client(at=1, user=client.user)]
    session = await client.open_session()
    question = f"2x + 3 = 11 을 단계별로 자세히 풀어줘 ({session})"
    await shared.admin("POST", "pace", {"tokens_per_second": 60, "text": session})
    posted = await client.post(session, question)
    loads: list[tuple[str, int]] = []
    live: list[tuple[str, Reader]] = []
    async with AsyncExitStack() as stack:
        while True:
            loader = clients[len(loads) % 2]
            page = await loader.call("GET", f"/v1/sessions/{session}/messages", 200)
            answers = [item for item in page["data"] if item["role"] == "assistant"]
            start = "".join(part["text"] for part in answers[0]["content"]) if answers else ""
            if answers and answers[0]["status"] != "in_progress":
                break
            loads.append((start, page["last_seq"]))
            if len(live) < 12:
                params = {"after": str(page["last_seq"])}
                stream = reading(loader, events_of(session), params=params)
                live.append((start, await stack.enter_async_context(stream)))
        for _, reader in live:
            await reader.until(lambda each: b"event: run.completed" in each.raw)
        told = [text_of(reader.blocks, start) for start, reader in live]
    whole = "".join(part["text"] for part in answers[0]["content"])
    assert set(told) == {whole}
    assert len({start for start, _ in loads if start}) > 5, "at different moments"
    async with reading(client, events_of(session, posted["run"]["id"])) as stream:
        blocks = [block for block in await stream.ends() if block.id]
    for start, last_seq in loads:
        assert text_of([b for b in blocks if int(b.id or 0) > last_seq], start) == whole


# ---------------------------------------------------------------- how it ends


async def test_a_silent_stream_is_kept_alive_by_comments(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert streams.KEEP_ALIVE_S == 15
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.5)
    async with in_process(database_url) as url:
        client = Client(url, "alice")
        session = await client.open_session()
        async with reading(client, events_of(session)) as reader:
            await reader.until(lambda each: each.raw.count(b": keep-alive\n\n") >= 2)
            await client.post(session, "Hello.", run=False)
            await reader.until(lambda each: bool(each.blocks))
        assert len(reader.blocks) == 1
        await client.close()


async def test_a_stream_s_life_is_bounded_and_the_next_goes_on_where_it_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert relay.LIFE_S == (600, 900)
    monkeypatch.setattr(relay, "LIFE_S", (0.5, 1.5))
    async with in_process(database_url) as url, desk_on(database_url, pool_size=2) as desk:
        client = Client(url, "alice")
        session = await client.open_session()
        got: list[Block] = []
        said = 0
        for _ in range(3):
            headers = {"Last-Event-ID": got[-1].id or ""} if got else {}
            params = {"after": "0"}
            async with reading(client, events_of(session), headers=headers, params=params) as one:
                while not one.is_over:
                    await say(desk, session, f"{said} ")
                    said += 1
                    with suppress(TimeoutError):
                        await one.ends(within=0.1)
                got += one.blocks
                assert one.raw.endswith(b"\n\n"), "a clean end"
        assert [int(block.id or 0) for block in got] == list(range(1, len(got) + 1))
        assert len(got) > said - 5
        await client.close()


async def test_lives_are_jittered_so_that_readers_do_not_all_come_back_at_once(
    desk: Desk,
) -> None:
    fresh = relay.Relay(desk.database, None, news=desk.database, max_streams=50, poll=None)  # type: ignore[arg-type]
    user, session = await desk.session()
    now = time.monotonic()
    opened = [await fresh.follow_session(user, session, after=None) for _ in range(30)]
    lives = [stream.ends_at - now for stream in opened]
    assert all(600 <= life <= 910 for life in lives)
    assert max(lives) - min(lives) > 60
    for stream in opened:
        stream.close()


@pytest.mark.parametrize("seen", [0, 2, 3])
async def test_a_run_that_ended_before_this_process_heard_of_it_is_told_whole(
    desk: Desk, seen: int
) -> None:
    # Nothing reads the news here: the channel stays where its first reader opened it.
    behind = relay.Relay(desk.database, None, news=desk.database, max_streams=50, poll=None)  # type: ignore[arg-type]
    user, session = await desk.session()
    if not seen:
        first = await behind.follow_session(user, session, after=0)
    run = await desk.waiting(user, session)
    if seen:
        first = await behind.follow_session(user, session, after=0)

    async def has_ended() -> bool:
        return (await desk.runs.get(user, session, run.id)).status.is_end

    await until(has_ended)
    after = seen if seen > 2 else None
    late = await behind.follow_run(user, session, run.id, after=after)
    assert late is not None
    async with asyncio.timeout(10):
        told = blocks_of(b"".join([piece async for piece in late.chunks()]).decode())
    log = await desk.events(session, after or 0)
    assert [(each.id, each.event) for each in told] == [
        *((str(event.seq), event.type) for event in log),
        (None, "done"),
    ]
    first.close()
    late.close()


@pytest.mark.parametrize("policy", ["interrupt", "enqueue"])
async def test_the_stream_of_a_post_tells_of_its_own_run_what_the_log_does(
    shared: Stack, policy: str
) -> None:
    client = shared.client()
    session = await client.open_session()
    await client.post(session, "A first question.")
    asked = {"content": "A second one.", "on_active_run": policy}
    path = f"/v1/sessions/{session}/messages"
    posted = await client.http.post(path, json=asked, headers=SSE, timeout=30)
    blocks = blocks_of(posted.text)
    assert [block.event for block in blocks[:2]] == ["message.created", "run.queued"]
    run = json.loads(blocks[1].data)["run"]["id"]
    log = await client.http.get(f"/v1/sessions/{session}/runs/{run}/events?after=0", headers=SSE)
    assert blocks == blocks_of(log.text)


async def test_a_stream_that_is_opened_while_the_process_goes_away_ends_at_once(
    desk: Desk,
) -> None:
    closing = relay.Relay(desk.database, None, news=desk.database, max_streams=50, poll=None)  # type: ignore[arg-type]
    user, session = await desk.session()
    run = await desk.waiting(user, session)
    opening = asyncio.create_task(closing.follow_session(user, session, after=0))
    await asyncio.sleep(0)
    closing.close()
    with pytest.raises(ShuttingDownError):
        await opening
    stream = closing.follow_new_run(user, relay.NewRun(run, []))
    async with asyncio.timeout(5):
        sent = b"".join([piece async for piece in stream.chunks()])
    assert sent.startswith(b"retry: "), "nothing but when to come back"
    assert b"id: " not in sent
    stream.close()
    await desk.sessions.delete(user, session)


async def test_a_token_that_expires_ends_its_stream_and_opens_no_other(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    brief = shared.client(user=client.user, ttl=3)
    async with (
        reading(brief, events_of(session)) as reader,
        reading(client, events_of(session)) as other,
    ):
        await reader.ends(within=15)
        await client.post(session, "Hello.", run=False)
        await other.until(lambda each: bool(each.blocks))
    assert not reader.blocks
    assert (await brief.http.get(events_of(session))).status_code == 401


async def test_a_deleted_session_ends_its_streams_everywhere_and_is_gone(shared: Stack) -> None:
    client = shared.client()
    other = shared.client(at=1, user=client.user)
    session, kept = await client.open_session(), await client.open_session()
    await shared.admin("POST", "pace", {"tokens_per_second": 5, "text": session})
    posted = await client.post(session, f"2x + 3 = 11 을 자세히 풀어줘 ({session})")
    run_id = posted["run"]["id"]
    async with AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(reading(each, path))
            for each in (client, other)
            for path in (events_of(session), events_of(session, run_id))
        ]
        beside = await stack.enter_async_context(reading(other, events_of(kept)))
        await readers[1].until(lambda each: b"message.delta" in each.raw)
        waiting = asyncio.create_task(
            other.http.get(
                f"/v1/sessions/{session}/runs/{run_id}",
                params={"wait": 30, "known": "in_progress"},
            )
        )
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        await client.call("DELETE", f"/v1/sessions/{session}", 204)
        # The poll behind a lost wake-up would need five seconds.
        async with asyncio.timeout(4):
            for reader in readers:
                assert "done" not in [block.event for block in await reader.ends()]
            assert (await waiting).status_code == 404
        await client.post(kept, "Still here.", run=False)
        await beside.until(lambda each: bool(each.blocks))
    for each in (client, other):
        for path in (events_of(session), events_of(session, run_id)):
            assert (await each.http.get(path)).status_code == 404


# ---------------------------------------------------------------- who is refused


async def test_a_user_may_open_so_many_streams_and_is_told_when_to_come_back(
    shared: Stack,
) -> None:
    client = shared.client()
    session = await client.open_session()
    async with AsyncExitStack() as stack:
        for _ in range(19):
            await stack.enter_async_context(reading(client, events_of(session)))
        async with reading(client, events_of(session)):
            assert await streams_left(client) == 0
            path = f"/v1/sessions/{session}/messages"
            async with asyncio.timeout(15):
                got = await client.http.get(events_of(session))
                posted = await client.http.post(path, json={"content": "Hello."}, headers=SSE)
            for response in (got, posted):
                assert response.status_code == 429
                assert response.json()["code"] == "too_many_streams"
                assert int(response.headers["retry-after"]) >= 1
            found = await client.call("GET", path, 200)
            assert found["data"] == [], "what can't be followed was not stored"
            stranger = shared.client()
            own = await stranger.open_session()
            async with reading(stranger, events_of(own)):
                pass

        async def has_room() -> bool:
            return await streams_left(client) > 0

        await until(has_room)
        async with reading(client, events_of(session)):
            pass


async def test_what_is_not_yours_is_refused_before_the_first_byte(shared: Stack) -> None:
    owner, stranger = shared.client(), shared.client()
    session = await owner.open_session()
    own = await stranger.open_session()
    posted = await owner.post(session, "What is 1 + 1?")
    run_id = posted["run"]["id"]
    paths = (
        events_of(session),
        events_of(session, run_id),
        events_of(own, run_id),
        events_of("sess_unknown"),
        events_of(own, "run_unknown"),
    )
    answers = [
        await stranger.http.get(path, params=params)
        for path in paths
        for params in ({}, {"after": "0"}, {"after": "999999"})
    ]
    assert {answer.status_code for answer in answers} == {404}
    bodies = [{**answer.json(), "request_id": ""} for answer in answers]
    assert all(body == bodies[0] for body in bodies)
    path = f"/v1/sessions/{session}/messages"
    response = await stranger.http.post(path, json={"content": "Hi."}, headers=SSE)
    assert response.status_code == 404
    async with httpx2.AsyncClient(base_url=shared.api_urls[0]) as nobody:
        assert (await nobody.get(events_of(session))).status_code == 401


# ---------------------------------------------------------------- what goes wrong


def stubborn(url: str, client: Client, path: str) -> socket.socket:
    """Open a stream and read nothing of it."""
    parts = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect((parts.hostname, parts.port))
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Authorization: Bearer {client.token}\r\n\r\n"
    )
    connection.sendall(request.encode())
    return connection


async def is_hung_up(stack: Stack, connection: socket.socket) -> bool:
    """Tell whether none of our processes holds the other end."""
    port = connection.getsockname()[1]
    held = [
        each
        for process in stack.processes
        if process.popen.poll() is None
        for each in psutil.Process(process.popen.pid).net_connections()
    ]
    return not any(each.raddr and each.raddr.port == port for each in held)


def drain(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(1 << 20):
            received += data
    connection.close()
    return received


def dechunk(raw: bytes) -> bytes:
    """Undo chunked encoding, also of a body that was cut off."""
    body, rest = b"", raw.partition(b"\r\n\r\n")[2]
    while b"\r\n" in rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        body, rest = body + rest[:length], rest[length + 2 :]
    return body


async def test_a_reader_that_does_not_read_is_cut_alone_and_resumes_whole(
    shared: Stack, desk: Desk
) -> None:
    client = shared.client()
    session = await client.open_session()
    async with reading(client, events_of(session), params={"after": "0"}) as healthy:
        free = await streams_left(client)
        slow = stubborn(shared.api_urls[0], client, f"{events_of(session)}?after=0")

        async def is_open() -> bool:
            return await streams_left(client) == free - 1

        await until(is_open)
        # The kernel's buffers first, then a mebibyte of ours.
        for number in range(60):
            await say(desk, session, f"{number} " + "분수" * 30_000)

        async def is_cut() -> bool:
            return await streams_left(client) == free

        # Sooner than one that only waits would be.
        await until(is_cut, within=15)
        await until(lambda: is_hung_up(shared, slow), within=5)
        await say(desk, session, "the last")
        await healthy.until(lambda each: b"the last" in each.raw and each.raw.endswith(b"\n\n"))
        got = whole_blocks(dechunk(await asyncio.to_thread(drain, slow)))
        assert len(got) < 61, "it was cut"
        headers = {"Last-Event-ID": got[-1].id or ""} if got else {}
        other = shared.client(at=1, user=client.user)
        async with reading(other, events_of(session), params={"after": "0"}, headers=headers) as r:
            await r.until(lambda each: b"the last" in each.raw and each.raw.endswith(b"\n\n"))
            assert shown(got + r.blocks) == shown(healthy.blocks)
    assert len(healthy.blocks) == 61


async def test_a_reader_that_never_takes_the_end_of_its_stream_loses_its_place(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LIFE_S", (1, 1))
    monkeypatch.setattr(streams, "MAX_BLOCKED_S", 1)
    async with in_process(database_url) as url, desk_on(database_url, pool_size=2) as desk:
        client = Client(url, "alice")
        session = await client.open_session()
        # One page, which the server takes at once: only the end has to wait for the reader.
        for number in range(60):
            await say(desk, session, f"{number} " + "분수" * 30_000)
        free = await streams_left(client)

        async def is_cut() -> bool:
            return await streams_left(client) == free

        with stubborn(url, client, f"{events_of(session)}?after=0") as slow:
            assert await asyncio.to_thread(slow.recv, 12) == b"HTTP/1.1 200"
            await until(is_cut)
        await client.close()


async def test_readers_survive_an_error_of_the_database_that_nobody_expected(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with in_process(database_url) as url, desk_on(database_url, pool_size=2) as desk:
        client = Client(url, "alice")
        session = await client.open_session()
        async with reading(client, events_of(session)) as reader:
            await say(desk, session, "before")
            await reader.until(lambda each: len(each.blocks) == 1)
            await desk.execute("ALTER TABLE events RENAME COLUMN data TO elsewhere")
            await desk.execute("SELECT pg_notify($1, '')", CHANNELS["events"])

            async def has_failed() -> bool:
                return "the log can't be read" in caplog.text

            await until(has_failed)
            await desk.execute("ALTER TABLE events RENAME COLUMN elsewhere TO data")
            await say(desk, session, "after")
            await reader.until(lambda each: len(each.blocks) == 2)
        await client.close()


async def test_a_lost_listening_connection_is_noticed_and_no_event_is_missed(
    shared: Stack, desk: Desk
) -> None:
    client = shared.client()
    session = await client.open_session()
    other = shared.client(at=1, user=client.user)
    listening = """SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'tutor-relay-listen'"""
    async with (
        reading(client, events_of(session)) as one,
        reading(other, events_of(session)) as two,
    ):
        await say(desk, session, "before")
        for reader in (one, two):
            await reader.until(lambda each: len(each.blocks) == 1)
        before = {row["pid"] for row in await shared.fetch(listening)}
        assert len(before) == 3, "two for events, one for work"
        await shared.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid", before)
        for number in range(50):
            await say(desk, session, f"{number}")
        for reader in (one, two):
            await reader.until(lambda each: len(each.blocks) == 51)
        assert shown(one.blocks) == shown(two.blocks)
        assert [int(block.id or 0) for block in one.blocks] == list(range(1, 52))

        async def are_back() -> bool:
            now = {row["pid"] for row in await shared.fetch(listening)}
            return len(now) == 3 and not now & before

        await until(are_back)
        await say(desk, session, "after")
        for reader in (one, two):
            await reader.until(lambda each: len(each.blocks) == 52, within=4)
