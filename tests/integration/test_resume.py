"""A reader that comes back, anywhere, at any byte, ends with what one has that never left."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from typing import Any

import pytest

from tests.integration.test_log import Desk, desk_on
from tests.integration.test_streams import (
    Reader,
    events_of,
    reading,
    say,
    shown,
    text_of,
    whole_blocks,
)
from tests.stack import Block, Client, Stack, until

ODD = '줄\u2028바꿈\u2029 다음\u0085줄\v\f 탭\t \r\n\n따옴표" 역슬래시\\ 😀 한글 id: 7\n\ndata: x'


@dataclass
class Recording:
    """An uncut stream that has all there is."""

    path: str
    raw: bytes
    is_run: bool

    @property
    def blocks(self) -> list[Block]:
        return whole_blocks(self.raw)


@dataclass
class Past:
    """A session with several runs behind it, recorded."""

    stack: Stack
    user: str
    session: str
    runs: list[Recording]
    whole: Recording

    def clients(self) -> tuple[Client, Client]:
        first, second = (self.stack.client(at=at, user=self.user) for at in range(2))
        return first, second


async def read_all(client: Client, path: str, last: str, **arguments: Any) -> bytes:
    """Read a session's stream until it has shown its last event."""
    end = f"id: {last}\n".encode()
    async with reading(client, path, **arguments) as reader:
        await reader.until(lambda each: end in each.raw and each.raw.endswith(b"\n\n"))
        return reader.raw


@pytest.fixture
async def desk(shared: Stack) -> AsyncIterator[Desk]:
    async with desk_on(shared.database_url, pool_size=4) as found:
        yield found


@pytest.fixture(scope="module")
async def past(shared: Stack) -> Past:
    client = shared.client()
    session = await client.open_session()
    runs = []
    await shared.admin("POST", "pace", {"tokens_per_second": 300, "text": session})
    for question in (
        f"3x**2 + 11x - 10 = 0 을 자세히 풀어줘. {ODD}",
        "더 자세히 단계별로 설명해줘",
        "Please integrate x**2 from 0 to 3, step by step.",
    ):
        posted = await client.post(session, f"{question} ({session})")
        path = events_of(session, posted["run"]["id"])
        async with reading(client, path) as reader:
            await reader.ends()
        runs.append(Recording(path, reader.raw, is_run=True))
    async with desk_on(shared.database_url, pool_size=2) as desk:
        await say(desk, session, *(f"{number} {ODD}" for number in range(10)))
    last = (await client.call("GET", f"/v1/sessions/{session}", 200))["last_seq"]
    raw = await read_all(client, events_of(session), str(last), params={"after": "0"})
    whole = Recording(events_of(session), raw, is_run=False)
    assert [block.id for block in whole.blocks] == [str(number + 1) for number in range(last)]
    assert len(runs[0].raw) != len(runs[0].raw.decode()), "more than ASCII"
    assert len(runs[0].blocks) > 15
    return Past(shared, client.user, session, runs, whole)


async def come_back(client: Client, recording: Recording, got: list[Block]) -> list[Block]:
    """Go on after the last whole block; a run's stream may have been read to its end."""
    last = next((block.id for block in reversed(got) if block.id), None)
    headers = {"Last-Event-ID": last} if last else {}
    if not recording.is_run:
        end = recording.blocks[-1].id or ""
        if last == end:
            return []
        params = {"after": "0"}
        raw = await read_all(client, recording.path, end, headers=headers, params=params)
        return whole_blocks(raw)
    response = await client.http.get(recording.path, headers=headers)
    if response.status_code == 204:
        assert last == recording.blocks[-2].id, "all but `done` was read"
        return recording.blocks[len(got) :]
    assert response.status_code == 200
    return whole_blocks(response.content)


async def test_what_a_reader_has_at_any_byte_is_a_beginning_of_the_whole(past: Past) -> None:
    for recording in (*past.runs, past.whole):
        blocks, have = shown(recording.blocks), 0
        for place in range(len(recording.raw) + 1):
            if recording.raw[:place].endswith(b"\n\n"):
                have = len(whole_blocks(recording.raw[:place]))
                assert shown(whole_blocks(recording.raw[:place])) == blocks[:have]
        assert have == len(blocks)


@pytest.mark.parametrize(
    "which", range(4), ids=["first run", "second run", "third run", "session"]
)
async def test_resuming_after_any_block_at_another_process_gives_exactly_the_rest(
    past: Past, which: int
) -> None:
    recording = [*past.runs, past.whole][which]
    blocks = recording.blocks
    clients = cycle(past.clients())
    # Whatever byte a stream is cut at, its reader stands after one of these blocks.
    for have in range(len(blocks) + 1):
        rest = await come_back(next(clients), recording, blocks[:have])
        assert shown(blocks[:have] + rest) == shown(blocks), have


async def test_many_cuts_in_a_row_at_any_byte_lose_and_repeat_nothing(past: Past) -> None:
    chance = random.Random(20_261_124)  # noqa: S311 - a seeded choice of cuts
    for recording in (*past.runs, past.whole) * 6:
        clients = cycle(past.clients())
        got: list[Block] = []
        while True:
            last = next((block.id for block in reversed(got) if block.id), None)
            headers = {"Last-Event-ID": last} if last else {}
            params = {} if recording.is_run else {"after": "0"}
            cut = chance.randrange(len(recording.raw) // 2)
            piece = b""
            client = next(clients)
            if not recording.is_run and last == recording.blocks[-1].id:
                break
            async with client.http.stream(
                "GET", recording.path, headers=headers, params=params
            ) as response:
                if response.status_code == 204:
                    assert shown(got) == shown(recording.blocks[:-1])
                    got = recording.blocks
                    break
                end = f"id: {recording.blocks[-1].id}\n".encode()
                async for chunk in response.aiter_raw():
                    piece += chunk
                    if len(piece) >= cut or (end in piece and piece.endswith(b"\n\n")):
                        break
            got += whole_blocks(piece[:cut])
            if got and got[-1].event == "done":
                break
        assert shown(got) == shown(recording.blocks)


async def test_a_run_that_is_being_written_can_be_left_and_joined_at_any_byte(
    shared: Stack,
) -> None:
    owner = shared.client()
    session = await owner.open_session()
    await shared.admin("POST", "pace", {"tokens_per_second": 80, "text": session})
    posted = await owner.post(session, f"3x**2 + 11x - 10 = 0 을 자세히 풀어줘 {ODD} {session}")
    path = events_of(session, posted["run"]["id"])

    async def stay() -> list[Block]:
        async with reading(shared.client(user=owner.user), path) as reader:
            return await reader.ends()

    async def come_and_go(seed: int) -> tuple[list[Block], int]:
        chance = random.Random(seed)  # noqa: S311 - a seeded choice of cuts
        clients = cycle([shared.client(at=at, user=owner.user) for at in (1, 0)])
        got: list[Block] = []
        visits = 0
        while not got or got[-1].event != "done":
            headers = {"Last-Event-ID": str(got[-1].id)} if got else {}
            cut, piece = chance.randrange(1, 3000), b""
            visits += 1
            async with next(clients).http.stream("GET", path, headers=headers) as response:
                if response.status_code == 204:
                    return got, visits
                async for chunk in response.aiter_raw():
                    piece += chunk
                    if len(piece) >= cut:
                        break
            got += whole_blocks(piece[:cut])
        return got, visits

    stayed, *others = await asyncio.gather(stay(), *(come_and_go(seed) for seed in range(6)))
    assert stayed[-1].event == "done"
    assert len(stayed) > 20
    for got, visits in others:
        assert visits > 5
        assert shown(got)[: len(stayed)] == shown(stayed)[: len(got)]
        assert len(got) >= len(stayed) - 1
    message = json.loads(stayed[-3].data)["message"]
    assert text_of(stayed) == message["content"][0]["text"]


async def test_a_session_that_is_being_written_can_be_left_and_joined(
    shared: Stack, desk: Desk
) -> None:
    owner = shared.client()
    clients = cycle([shared.client(at=at, user=owner.user) for at in (1, 0)])
    session = await owner.open_session()
    total = 150

    async def write() -> None:
        for number in range(total):
            await say(desk, session, f"{number} {ODD}")

    writing = asyncio.create_task(write())
    got: list[Block] = []
    visits = 0
    while len(got) < total:
        params = {"after": got[-1].id if got else "0"}
        visits += 1
        async with reading(next(clients), events_of(session), params=params) as reader:
            await reader.until(lambda each: len(each.raw) > 300)
            got += reader.blocks
    await writing
    assert visits > 5
    assert [block.id for block in got] == [str(number + 1) for number in range(total)]
    assert text_of(got) == "".join(f"{number} {ODD}" for number in range(total))


# ---------------------------------------------------------------- cursors


async def test_a_run_that_was_read_to_its_end_has_nothing_more(past: Past) -> None:
    for client in past.clients():
        for recording in past.runs:
            last = recording.blocks[-2].id or ""
            for how in ({"headers": {"Last-Event-ID": last}}, {"params": {"after": last}}):
                response = await client.http.get(recording.path, **how)
                assert (response.status_code, response.content) == (204, b"")
            # Without a cursor it is told again.
            again = await client.http.get(recording.path, headers={"Last-Event-ID": ""})
            assert shown(whole_blocks(again.content)) == shown(recording.blocks)


async def test_a_cursor_of_nought_or_before_a_run_shows_the_run_from_its_start(
    past: Past,
) -> None:
    client, _ = past.clients()
    recording = past.runs[1]
    for cursor in ("0", "1", past.runs[0].blocks[-2].id):
        response = await client.http.get(recording.path, params={"after": cursor})
        assert shown(whole_blocks(response.content)) == shown(recording.blocks)


async def test_the_header_wins_over_the_query_and_both_mean_the_same(past: Past) -> None:
    client, other = past.clients()
    end = past.whole.blocks[-1].id or ""
    expected = shown(past.whole.blocks[5:])
    for arguments in (
        {"headers": {"Last-Event-ID": "5"}},
        {"params": {"after": "5"}},
        {"headers": {"Last-Event-ID": "5"}, "params": {"after": "9"}},
        {"headers": {"Last-Event-ID": ""}, "params": {"after": "5"}},
    ):
        for each in (client, other):
            raw = await read_all(each, past.whole.path, end, **arguments)
            assert shown(whole_blocks(raw)) == expected


@pytest.mark.parametrize("cursor", ["-1", "x", "1.0", "0x1", "+1", " 1 1", "9" * 19, "٣", "1\x00"])
async def test_what_is_no_cursor_is_refused(past: Past, cursor: str) -> None:
    client, _ = past.clients()
    for path in (past.whole.path, past.runs[0].path):
        response = await client.http.get(path, params={"after": cursor})
        assert response.status_code == 400
        assert response.json()["code"] == "invalid_cursor"


# ---------------------------------------------------------------- reset


async def reset_of(reader: Reader) -> tuple[Block, Any]:
    await reader.until(lambda each: bool(each.blocks))
    block = reader.blocks[0]
    assert block.event == "reset"
    data = json.loads(block.data)
    assert data["type"] == "reset"
    assert str(data["seq"]) == block.id
    return block, data


@pytest.mark.parametrize("cursor", ["1000", "9" * 18])
async def test_a_cursor_beyond_the_log_gets_a_snapshot_and_then_the_log(
    shared: Stack, cursor: str
) -> None:
    client = shared.client()
    session = await client.open_session()
    for number in range(11):
        await client.post(session, f"질문 {number} {ODD}", run=False)
    await client.ask(session, "What is 1 + 1?")
    for number in range(11, 20):
        await client.post(session, f"{number}", run=False)
    page = await client.call("GET", f"/v1/sessions/{session}/messages", 200)
    async with reading(client, events_of(session), headers={"Last-Event-ID": cursor}) as reader:
        block, data = await reset_of(reader)
        assert data["session_id"] == session
        assert data["messages"] == page["data"][::-1], "the newest twenty, as the list has them"
        assert len(data["messages"]) == 20
        assert data["run"] is None
        assert data["seq"] == page["last_seq"]
        await client.post(session, "After.", run=False)
        await reader.until(lambda each: len(each.blocks) == 2)
        assert reader.blocks[1].id == str(data["seq"] + 1)
    other = shared.client(at=1, user=client.user)
    async with reading(
        other, events_of(session), headers={"Last-Event-ID": str(block.id)}
    ) as again:
        await again.until(lambda each: bool(each.blocks))
        assert shown(again.blocks) == shown(reader.blocks[1:])


async def test_a_snapshot_in_the_middle_of_an_answer_misses_nothing_of_it(
    shared: Stack,
) -> None:
    client = shared.client()
    session = await client.open_session()
    await shared.admin("POST", "pace", {"tokens_per_second": 60, "text": session})
    posted = await client.post(session, f"2x + 3 = 11 을 자세히 풀어줘 ({session})")
    run_id = posted["run"]["id"]
    joined: list[tuple[Reader, int, str]] = []
    async with reading(client, events_of(session, run_id)) as stayed:
        await stayed.until(lambda each: each.raw.count(b"event: message.delta") > 5)
        async with AsyncExitStack() as stack:
            for path in (events_of(session), events_of(session, run_id)):
                lost = reading(client, path, headers={"Last-Event-ID": "123456"})
                reader = await stack.enter_async_context(lost)
                _, data = await reset_of(reader)
                assert data["run"]["id"] == run_id
                assert data["run"]["status"] == "in_progress"
                *_, answer = data["messages"]
                assert answer["status"] == "in_progress"
                joined.append((reader, data["seq"], answer["content"][0]["text"]))
            for reader, seq, start in joined:
                await reader.until(lambda each: b"event: run.completed" in each.raw)
                await reader.until(lambda each: each.raw.endswith(b"\n\n"))
                blocks = [each for each in reader.blocks[1:] if each.id]
                assert int(blocks[0].id or 0) == seq + 1
                whole = json.loads(blocks[-2].data)["message"]["content"][0]["text"]
                assert start
                assert text_of(blocks, start) == whole
            assert (await joined[1][0].ends())[-1].event == "done"
        await stayed.ends()
    async with reading(
        client, events_of(session, run_id), headers={"Last-Event-ID": "123456"}
    ) as reader:
        found = await reader.ends()
    assert [block.event for block in found] == ["reset", "done"]
    done = json.loads(found[-1].data)
    assert (done["session_id"], str(done["seq"])) == (session, found[0].id)
    headers = {"Last-Event-ID": found[0].id or ""}
    assert (await client.http.get(events_of(session, run_id), headers=headers)).status_code == 204


async def test_a_cursor_whose_events_were_pruned_gets_a_snapshot_and_then_the_log(
    shared: Stack, desk: Desk
) -> None:
    client = shared.client()
    session = await client.open_session()
    old, _ = await client.ask(session, "What is 1 + 1?")
    new, _ = await client.ask(session, "What is 2 + 2?")
    before = await desk.events(session)
    early = "UPDATE runs SET ended_at = now() - interval '2 days' WHERE id = $1"
    await desk.execute(early, old["id"])
    async with desk.database.transaction() as uow:
        assert await uow.log.prune(older_than=timedelta(days=1), limit=1000)
        pruned = (await uow.log.state(session)).pruned_seq
    assert pruned > 0
    left = [event for event in before if event.run_id != old["id"] or event.type[-5:] != "delta"]
    assert await desk.events(session) == left
    last = before[-1].seq
    for cursor in (0, 1, pruned - 1):
        for at in range(2):
            other = shared.client(at=at, user=client.user)
            async with reading(other, events_of(session), params={"after": str(cursor)}) as reader:
                block, data = await reset_of(reader)
                assert block.id == str(last)
                assert [item["role"] for item in data["messages"]] == ["user", "assistant"] * 2
    raw = await read_all(client, events_of(session), str(last), params={"after": str(pruned)})
    assert [b.id for b in whole_blocks(raw)] == [str(e.seq) for e in left if e.seq > pruned]
    # The run itself is still told, in its final words, and so is the one that came later.
    async with reading(client, events_of(session, old["id"])) as reader:
        told = await reader.ends()
    assert [block.id for block in told[:-1]] == [
        str(event.seq) for event in left if event.run_id == old["id"]
    ]
    async with reading(client, events_of(session, new["id"]), params={"after": "0"}) as reader:
        assert (await reader.ends())[0].event == "message.created"


async def test_a_laptop_that_slept_past_its_token_and_the_pruning_shows_the_end_of_the_answer(
    shared: Stack, desk: Desk
) -> None:
    owner = shared.client()
    brief = shared.client(user=owner.user, ttl=12)
    session = await owner.open_session()
    await shared.admin("POST", "pace", {"tokens_per_second": 40, "text": session})
    posted = await owner.post(session, f"3x**2 + 11x - 10 = 0 을 자세히 풀어줘 ({session})")
    run_id = posted["run"]["id"]
    paths = events_of(session), events_of(session, run_id)
    tickets = f"/v1/sessions/{session}/stream_tickets"
    cursors = []
    ticket = (await brief.call("POST", tickets, 201))["ticket"]
    browser = shared.client()
    del browser.http.headers["Authorization"]
    for path in paths:
        params = {"after": "0", "ticket": ticket}
        async with reading(browser, path, params=params) as reader:
            await reader.until(lambda each: each.raw.count(b"event: message.delta") > 2)
            cursors.append(reader.blocks[-1].id or "")
    # The lid is closed. The answer comes to its end, and three days pass.
    run = await owner.ended(session, run_id)
    await desk.execute(
        "UPDATE runs SET ended_at = now() - interval '4 days' WHERE id = $1", run_id
    )
    async with desk.database.transaction() as uow:
        assert await uow.log.prune(older_than=timedelta(days=3), limit=1000)

    async def is_refused() -> bool:
        response = await browser.http.get(paths[0], params={"ticket": ticket})
        return response.status_code == 401

    await until(is_refused, within=40)
    # A native EventSource gives up at 401; its page gets another ticket, and goes on.
    ticket = (await owner.call("POST", tickets, 201))["ticket"]
    other = shared.client(at=1)
    del other.http.headers["Authorization"]
    answer = await owner.call(
        "GET", f"/v1/sessions/{session}/messages/{run['output_message_id']}", 200
    )
    for path, cursor in zip(paths, cursors, strict=True):
        params = {"after": cursor, "ticket": ticket}
        async with reading(other, path, params=params) as reader:
            block, data = await reset_of(reader)
            assert answer in data["messages"]
            assert data["run"] is None
            if path == paths[1]:
                assert [each.event for each in await reader.ends()] == ["reset", "done"]
            else:
                await owner.post(session, "Good morning.", run=False)
                await reader.until(lambda each: len(each.blocks) == 2)
                assert reader.blocks[1].id == str(int(block.id or 0) + 1)
