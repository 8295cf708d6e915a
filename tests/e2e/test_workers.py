"""Workers and API processes killed, frozen and stopped in the middle of runs."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest

from tests.conftest import NewDatabase
from tests.e2e.crew import (
    QUESTION,
    WORD,
    Asked,
    Hand,
    all_end,
    ask_at_once,
    follow,
    hire,
    started,
    under_way,
)
from tests.e2e.invariants import check, check_logs
from tests.stack import Block, Stack, until

RUNS = 20
LEASE_S = 1
ATTEMPTS = 2
DRAIN_S = 1
PACE = 40
"""Tokens a second: an answer takes some seconds."""


class Staff:
    """The workers of a stack, hired as they are needed."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._hands: list[Hand] = []

    @property
    def hands(self) -> list[Hand]:
        """Those who live."""
        return [hand for hand in self._hands if hand.process.popen.poll() is None]

    async def of(self, count: int, **env: str) -> list[Hand]:
        """Return as many as are asked for, at least."""
        while len(self.hands) < count:
            self._hands.append(await hire(self.stack, **env))
        return self.hands

    async def dismiss(self) -> None:
        """Stop all of them in order."""
        for hand in self.hands:
            hand.process.signal(signal.SIGTERM)
            assert await hand.process.exit(DRAIN_S + 10) == 0

    async def busiest(self, asked: Sequence[Asked]) -> Hand:
        """Return who holds most of the runs."""
        (name, _), *_ = Counter((await self.holders(asked)).values()).most_common(1)
        return next(hand for hand in self.hands if hand.id == name)

    async def holders(self, asked: Sequence[Asked]) -> dict[str, str]:
        """Return which worker has each run."""
        rows = await self.stack.fetch(
            "SELECT id, worker_id FROM runs WHERE id = ANY($1)", [each.run for each in asked]
        )
        return {row["id"]: row["worker_id"] for row in rows}


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """An API process, and a sandbox that speaks slowly."""
    url, folder = await new_database(), tmp_path_factory.mktemp("workers")
    settings = {
        "RUN_LEASE_S": str(LEASE_S),
        "RUN_MAX_ATTEMPTS": str(ATTEMPTS),
        "WORKER_DRAIN_S": str(DRAIN_S),
    }
    async with started(url, folder, pace=PACE, **settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def staff(stack: Stack) -> Staff:
    return Staff(stack)


@pytest.fixture(autouse=True)
async def sound(stack: Stack, staff: Staff) -> AsyncIterator[None]:
    """Check everything after every test."""
    yield
    for hand in staff.hands:
        hand.process.signal(signal.SIGCONT)
    await check(stack.database_url)
    check_logs(stack.logs(), WORD)


def followed(asked: Sequence[Asked]) -> "asyncio.Future[list[list[Block]]]":
    """Follow every run to its end, from now on."""
    return asyncio.gather(*(follow(each.events, each.client) for each in asked))


ALL_ROWS = (
    "SELECT * FROM events WHERE session_id = ANY($1) ORDER BY session_id, seq",
    "SELECT * FROM messages WHERE session_id = ANY($1) ORDER BY id",
    "SELECT * FROM runs WHERE session_id = ANY($1) ORDER BY id",
    "SELECT * FROM sessions WHERE id = ANY($1) ORDER BY id",
    """SELECT session_id, thread_id FROM upstream_threads
        WHERE session_id = ANY($1) AND retired_at IS NULL ORDER BY thread_id""",
)


async def rows_of(stack: Stack, asked: Sequence[Asked]) -> list[tuple[Any, ...]]:
    """Return all that the database has of the sessions."""
    sessions = [each.session for each in asked]
    found = [await stack.fetch(query, sessions) for query in ALL_ROWS]
    return [tuple(row) for rows in found for row in rows]


def assert_whole(streams: Sequence[Sequence[Block]]) -> None:
    """Check that each reader was sent one answer, to its end."""
    for blocks in streams:
        kinds = [block.event for block in blocks]
        assert kinds[-1] == "run.completed", kinds
        assert kinds.count("message.completed") == 1, kinds
        created = [json.loads(b.data)["message"] for b in blocks if b.event == "message.created"]
        assert [message["role"] for message in created] == ["user", "assistant"], created


async def test_the_upstreams_name_of_a_generation_is_stored_with_its_first_words(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(1)
    asked = await ask_at_once(stack, 1)
    await under_way(stack, asked, deltas=1)
    # Without it the next holder could not ask what became of the generation.
    query = "SELECT upstream_response_id FROM runs WHERE id = $1"
    name = await stack.fetchval(query, asked[0].run)
    await all_end(stack, asked)
    assert name is not None


async def test_runs_of_a_killed_worker_are_completed_by_another(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(2)
    before = (await stack.admin("GET", "stats"))["generations"]
    asked = await ask_at_once(stack, RUNS)
    readers = followed(asked)
    await under_way(stack, asked)
    victim, held = await staff.busiest(asked), await staff.holders(asked)
    victim.process.kill()
    lost = {run for run, holder in held.items() if holder == victim.id}
    assert len(lost) >= RUNS / 2

    async def taken_over() -> bool:
        return victim.id not in (await staff.holders(asked)).values()

    await until(taken_over, within=LEASE_S + 10)
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"completed"}
    assert {row["attempts"] for row in rows if row["id"] in lost} == {2}
    assert {row["attempts"] for row in rows if row["id"] not in lost} <= {1}
    made = (await stack.admin("GET", "stats"))["generations"] - before
    assert made == RUNS + len(lost)
    streams = await readers
    assert_whole(streams)
    for each, blocks in zip(asked, streams, strict=True):
        resets = [json.loads(b.data)["reason"] for b in blocks if b.event == "message.reset"]
        assert resets == (["resumed"] if each.run in lost else []), each


async def test_a_frozen_worker_writes_nothing_when_it_wakes(stack: Stack, staff: Staff) -> None:
    await staff.of(2)
    asked = await ask_at_once(stack, RUNS // 2)
    readers = followed(asked)
    await under_way(stack, asked)
    frozen = await staff.busiest(asked)
    frozen.process.signal(signal.SIGSTOP)
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"completed"}
    assert frozen.id not in {row["worker_id"] for row in rows}
    # The upstream went on: its answer was waited for, and no other was paid for.
    assert {row["attempts"] for row in rows} == {1}
    assert_whole(await readers)
    before = await rows_of(stack, asked)
    posts = (await stack.admin("GET", "stats"))["response_posts"]
    seen = "SELECT seen_at FROM workers WHERE id = $1"
    last = await stack.fetchval(seen, frozen.id)
    frozen.process.signal(signal.SIGCONT)

    async def beats() -> bool:
        return bool(await stack.fetchval(seen, frozen.id) > last)

    for _ in range(3):
        # A tick is much shorter than a heartbeat: all that it had read was tried, and refused.
        await until(beats)
        last = await stack.fetchval(seen, frozen.id)
    assert await rows_of(stack, asked) == before
    assert (await stack.admin("GET", "stats"))["response_posts"] == posts


async def test_a_frozen_worker_whose_generations_died_is_fenced_all_the_same(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(2)
    asked = await ask_at_once(stack, RUNS // 2)
    await under_way(stack, asked)
    frozen, held = await staff.busiest(asked), await staff.holders(asked)
    frozen.process.signal(signal.SIGSTOP)
    assert stack.sandbox is not None
    stack.sandbox.kill()
    await stack.start_sandbox(pace=PACE)
    rows = await all_end(stack, asked)
    lost = {run for run, holder in held.items() if holder == frozen.id}
    done = {(row["status"], row["attempts"]) for row in rows if row["id"] in lost}
    assert done == {("completed", 2)}
    before = await rows_of(stack, asked)
    frozen.process.signal(signal.SIGTERM)
    frozen.process.signal(signal.SIGCONT)
    assert await frozen.process.exit(DRAIN_S + 10) == 0
    assert await rows_of(stack, asked) == before


async def test_a_stopped_worker_hands_over_what_it_can_not_finish(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(2)
    asked = await ask_at_once(stack, RUNS)
    readers = followed(asked)
    await under_way(stack, asked)
    leaver = await staff.busiest(asked)
    leaver.process.signal(signal.SIGTERM)
    assert await leaver.process.exit(DRAIN_S + 10) == 0, leaver.process.log.read_text()[-4000:]
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"completed"}
    handed = [row for row in rows if row["handovers"]]
    assert handed
    assert leaver.id not in {row["worker_id"] for row in handed}
    for row in rows:
        assert row["handovers"] <= 1, row
        # A hand-over costs no attempt of the limit, yet the generation is counted.
        assert row["attempts"] <= 1 + row["handovers"], row
    assert_whole(await readers)


async def test_a_stopping_worker_finishes_what_it_has_and_claims_nothing(
    stack: Stack, staff: Staff
) -> None:
    await staff.dismiss()
    (leaver,) = await staff.of(1, WORKER_DRAIN_S="30")
    asked = await ask_at_once(stack, 5)
    await under_way(stack, asked)
    leaver.process.signal(signal.SIGTERM)
    late = await ask_at_once(stack, 5)
    assert await leaver.process.exit(30) == 0
    rows = await all_end(stack, asked, within=1)
    assert {(r["status"], r["worker_id"], r["attempts"], r["handovers"]) for r in rows} == {
        ("completed", leaver.id, 1, 0)
    }
    waiting = await stack.fetch(
        "SELECT status, worker_id FROM runs WHERE id = ANY($1)", [each.run for each in late]
    )
    assert {tuple(row) for row in waiting} == {("queued", None)}
    await staff.of(1)
    assert {row["status"] for row in await all_end(stack, late)} == {"completed"}


async def test_a_run_whose_workers_keep_dying_fails_with_a_reason(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(1)
    asked = await ask_at_once(stack, 1)
    query = """
    SELECT attempts, (SELECT type FROM events e WHERE e.run_id = r.id ORDER BY seq DESC LIMIT 1)
    FROM runs r WHERE id = $1
    """
    for attempt in range(1, ATTEMPTS + 1):

        async def shows(wanted: int = attempt) -> bool:
            (row,) = await stack.fetch(query, asked[0].run)
            return bool(tuple(row) == (wanted, "message.delta"))

        await until(shows)
        victim = await staff.busiest(asked)
        victim.process.kill()
        await staff.of(1)
    run = await asked[0].client.ended(asked[0].session, asked[0].run)
    assert run["status"] == "failed", run
    assert run["last_error"]["code"] == "upstream_interrupted", run
    assert run["attempts"] == ATTEMPTS


class Reader:
    """One stream, read to wherever it ends."""

    def __init__(self, asked: Asked, path: str) -> None:
        self.text = ""
        self.is_open = asyncio.Event()
        self.ended = asyncio.create_task(self._read(asked, path))

    async def _read(self, asked: Asked, path: str) -> float:
        async with asked.client.http.stream("GET", path) as response:
            async for chunk in response.aiter_bytes():
                self.text += chunk.decode()
                self.is_open.set()
        return time.monotonic()


async def test_an_api_process_stops_at_once_and_its_readers_go_on_elsewhere(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(1)
    leaver = await stack.start_api()
    at = len(stack.api_urls) - 1
    asked = await ask_at_once(stack, 10, at=at)
    everywhere = [
        [stack.client(at=number, user=each.client.user) for number in (at, 0)] for each in asked
    ]
    followers = [
        asyncio.create_task(follow(each.events, *clients))
        for each, clients in zip(asked, everywhere, strict=True)
    ]
    readers = [Reader(each, each.events) for each in asked]
    readers += [Reader(each, f"/v1/sessions/{each.session}/events?after=0") for each in asked]
    await asyncio.wait_for(asyncio.gather(*(reader.is_open.wait() for reader in readers)), 20)
    await under_way(stack, asked)
    began = time.monotonic()
    leaver.signal(signal.SIGTERM)
    ends = await asyncio.wait_for(asyncio.gather(*(reader.ended for reader in readers)), 5)
    assert await leaver.exit(5) == 0, leaver.log.read_text()[-4000:]
    assert time.monotonic() - began < 5
    assert max(ends) - began < 2
    for reader in readers:
        assert reader.text.startswith("retry: "), reader.text
        assert reader.text.endswith("\n\n"), reader.text[-200:]
        assert "event: done" not in reader.text
    assert_whole(await asyncio.gather(*followers))
    for each, follower, clients in zip(asked, followers, everywhere, strict=True):
        assert await follow(each.events, clients[1]) == follower.result()


async def test_a_question_and_its_stream_survive_the_api_process_that_took_them(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(1)
    leaver = await stack.start_api()
    client = stack.client(at=len(stack.api_urls) - 1)
    session = await client.open_session()
    stream = asyncio.create_task(
        client.stream(
            f"/v1/sessions/{session}/messages",
            method="POST",
            json={"content": QUESTION},
            headers={"Accept": "text/event-stream"},
        )
    )

    async def posted() -> Any:
        return await stack.fetchval("SELECT id FROM runs WHERE session_id = $1", session)

    run = await until(posted)
    leaver.kill()
    with pytest.raises(httpx2.TransportError):
        await stream
    other = stack.client(at=0, user=client.user)
    blocks = await follow(f"/v1/sessions/{session}/runs/{run}/events", other)
    assert_whole([blocks])
