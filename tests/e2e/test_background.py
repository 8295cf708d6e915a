"""Answers that outlive their worker: heard again, taken over, cancelled, never paid twice."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest

from tests.conftest import NewDatabase
from tests.e2e.crew import QUESTION, WORD, Asked, all_end, ask_at_once, started, under_way
from tests.e2e.invariants import check, check_logs
from tests.e2e.test_workers import DRAIN_S, LEASE_S, Staff, assert_whole, followed
from tests.stack import Block, Client, Stack, until

RUNS = 8
PACE = 70
"""Tokens a second: an answer takes about four seconds."""
DELTA = "response.output_text.delta"
POSTS = {"method": "POST", "path": "/v1/responses"}
TOOK = """
SELECT extract(epoch FROM max((data::jsonb ->> 'at')::timestamptz)
    - min((data::jsonb ->> 'at')::timestamptz))
FROM events WHERE run_id = $1 AND type IN ('run.cancelling', 'run.cancelled')
"""
CANCELS = {"method": "POST", "path": "/v1/responses/*/cancel"}


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Two API processes, workers that generate in the background, a sandbox that speaks slowly."""
    url, folder = await new_database(), tmp_path_factory.mktemp("background")
    settings = {
        "UPSTREAM_BACKGROUND": "true",
        "UPSTREAM_FIRST_BYTE_S": "4",
        "UPSTREAM_IDLE_S": "4",
        "RUN_LEASE_S": str(LEASE_S),
        "RUN_MAX_ATTEMPTS": "2",
        "WORKER_DRAIN_S": str(DRAIN_S),
    }
    async with started(url, folder, apis=2, pace=PACE, **settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def staff(stack: Stack) -> Staff:
    return Staff(stack)


@pytest.fixture(autouse=True)
async def sound(stack: Stack, staff: Staff) -> AsyncIterator[None]:
    """Begin with a sandbox that counts from nothing; check everything after every test."""
    await stack.admin("POST", "reset")
    yield
    for hand in staff.hands:
        hand.process.signal(signal.SIGCONT)
    await check(stack.database_url)
    check_logs(stack.logs(), WORD)


async def posts(stack: Stack) -> int:
    """Count the generations that the upstream was asked for."""
    return int((await stack.admin("GET", "stats"))["response_posts"])


async def fault(stack: Stack, action: dict[str, Any], **match: Any) -> None:
    await stack.admin("POST", "faults", {"action": action, **match})


async def upstream_is_idle(stack: Stack) -> None:
    """Wait until nothing is generated that nobody wants."""

    async def is_idle() -> bool:
        stats = await stack.admin("GET", "stats")
        return bool(stats["running"] == stats["locked_conversations"] == 0)

    await until(is_idle)


def resets(blocks: Sequence[Block]) -> list[str]:
    return [json.loads(b.data)["reason"] for b in blocks if b.event == "message.reset"]


async def text_of(asked: Asked) -> str:
    path = f"/v1/sessions/{asked.session}/messages"
    listed = await asked.client.call("GET", path, 200, params={"run_id": asked.run})
    return "".join(part["text"] for m in listed["data"] for part in m["content"])


async def cancel(client: Client, asked: Asked) -> float:
    """Cancel a run; return how long it took to be over."""
    began = time.monotonic()
    await client.call("POST", f"/v1/sessions/{asked.session}/runs/{asked.run}/cancel", 202)
    await client.ended(asked.session, asked.run)
    return time.monotonic() - began


# ---------------------------------------------------------------- resumed


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda each: each.name)
async def test_what_a_worker_leaves_is_resumed_by_another_and_not_paid_for_twice(
    stack: Stack, staff: Staff, how: signal.Signals
) -> None:
    await staff.of(2)
    asked = await ask_at_once(stack, RUNS)
    readers = followed(asked)
    await under_way(stack, asked)
    leaver = await staff.busiest(asked)
    left = {run for run, holder in (await staff.holders(asked)).items() if holder == leaver.id}
    leaver.process.signal(how)
    await leaver.process.exit(DRAIN_S + 10)
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"completed"}
    assert {row["attempts"] for row in rows} == {1}
    assert [row for row in rows if row["id"] in left and row["worker_id"] != leaver.id]
    assert {row["usage"] is not None for row in rows} == {True}
    assert await posts(stack) == RUNS
    streams = await readers
    assert_whole(streams)
    # Without a reset, deltas that add up to the answer (as checked) repeat nothing of it.
    assert [resets(blocks) for blocks in streams] == [[]] * RUNS


async def test_a_run_that_loses_worker_after_worker_is_one_generation(
    stack: Stack, staff: Staff
) -> None:
    await stack.admin("POST", "pace", {"tokens_per_second": 25})
    await staff.of(1)
    asked = await ask_at_once(stack, 1)
    readers = followed(asked)
    for deltas in (3, 6):
        await under_way(stack, asked, deltas=deltas)
        (await staff.busiest(asked)).process.kill()
        await staff.of(1)

        async def taken_over() -> bool:
            holder = (await staff.holders(asked))[asked[0].run]
            return holder in {hand.id for hand in staff.hands}

        await until(taken_over)
    (row,) = await all_end(stack, asked)
    assert (row["status"], row["attempts"], await posts(stack)) == ("completed", 1, 1)
    (blocks,) = await readers
    assert resets(blocks) == []


@pytest.mark.parametrize(
    "action",
    [
        {"type": "reset", "at": {"event": "response.created"}, "position": "after"},
        {"type": "eof", "at": {"event": DELTA, "nth": 5}},
        {"type": "stall", "at": {"event": DELTA, "nth": 5}},
    ],
    ids=lambda action: f"{action['type']} at {action['at']['event']}",
)
async def test_a_stream_that_breaks_is_heard_again_by_name(
    stack: Stack, staff: Staff, action: dict[str, Any]
) -> None:
    await staff.of(1)
    await fault(stack, action, **POSTS)
    # The first resumption (a look and a stream) breaks too.
    again = {"type": "reset", "at": {"event": DELTA, "nth": 7}}
    await fault(stack, again, method="GET", path="/v1/responses/*", nth=2)
    asked = await ask_at_once(stack, 1)
    readers = followed(asked)
    (row,) = await all_end(stack, asked)
    assert (row["status"], row["attempts"], await posts(stack)) == ("completed", 1, 1)
    (blocks,) = await readers
    assert resets(blocks) == []


@pytest.mark.parametrize("how", ["cut", "killed"])
async def test_a_generation_whose_name_was_never_heard_is_waited_for(
    stack: Stack, staff: Staff, how: str
) -> None:
    await staff.dismiss()
    (worker,) = await staff.of(1)
    kind = "reset" if how == "cut" else "stall"
    await fault(stack, {"type": kind, "at": {"event": "response.created"}}, **POSTS)
    asked = await ask_at_once(stack, 1)

    async def is_made() -> bool:
        return bool((await stack.admin("GET", "stats"))["generations"] == 1)

    await until(is_made)
    if how == "killed":
        worker.process.kill()
        await staff.of(1)
    (row,) = await all_end(stack, asked)
    # The repetition was counted, and refused as long as the first one held the thread.
    assert (row["status"], row["attempts"]) in {("completed", 1), ("completed", 2)}
    stats = await stack.admin("GET", "stats")
    assert (stats["generations"], stats["conversations"], stats["items"]) == (1, 1, 2)


async def test_one_that_the_upstream_forgot_is_made_again_and_counted(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(1)
    asked = await ask_at_once(stack, 1)
    readers = followed(asked)
    await under_way(stack, asked)
    holder = await staff.busiest(asked)
    holder.process.kill()
    await stack.admin("POST", "reset")
    await staff.of(1)
    (row,) = await all_end(stack, asked)
    assert (row["status"], row["attempts"], await posts(stack)) == ("completed", 2, 1)
    (blocks,) = await readers
    assert resets(blocks) == ["resumed"]


@pytest.mark.parametrize("background", ["true", "false"])
async def test_an_answer_that_was_finished_when_its_worker_died_is_taken_over(
    stack: Stack, staff: Staff, background: str
) -> None:
    await staff.dismiss()
    (victim,) = await staff.of(1, UPSTREAM_BACKGROUND=background)
    await stack.admin("POST", "pace", {"tokens_per_second": 200})
    asked = await ask_at_once(stack, 1)
    readers = followed(asked)
    await under_way(stack, asked)
    victim.process.signal(signal.SIGSTOP)

    async def is_finished() -> bool:
        return bool((await stack.admin("GET", "stats"))["generations_completed"] == 1)

    await until(is_finished)
    victim.process.kill()
    await staff.of(1)
    (row,) = await all_end(stack, asked)
    assert (row["status"], row["attempts"], await posts(stack)) == ("completed", 1, 1)
    assert row["usage"] is not None
    (blocks,) = await readers
    assert resets(blocks) == []


# ---------------------------------------------------------------- cancelled


async def test_a_run_is_cancelled_from_another_process_and_so_is_its_generation(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(1)
    asked = (await ask_at_once(stack, 1))[0]
    readers = followed([asked])
    await under_way(stack, [asked])
    elsewhere = stack.client(at=1, user=asked.client.user)
    await cancel(elsewhere, asked)
    took = await stack.fetchval(TOOK, asked.run)
    assert took < 3  # Some milliseconds where nobody else works; tests share their machine.
    run = await asked.client.run(asked.session, asked.run)
    assert (run["status"], run["last_error"]) == ("cancelled", None)
    assert run["usage"]["output_tokens"] > 0
    assert run["usage"]["input_tokens"] > 0
    await upstream_is_idle(stack)
    stats = await stack.admin("GET", "stats")
    assert (stats["response_posts"], stats["generations_completed"]) == (1, 0)
    (blocks,) = await readers
    events = [block.event for block in blocks]
    assert "run.cancelling" in events
    assert events[-2:] == ["message.incomplete", "run.cancelled"]
    assert await text_of(asked)


async def test_a_cancellation_loses_to_an_answer_that_was_finished_before_it(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(1)
    await fault(stack, {"type": "stall", "at": {"event": DELTA, "nth": 5}, "seconds": 60}, **POSTS)
    asked = (await ask_at_once(stack, 1))[0]
    readers = followed([asked])

    async def is_finished() -> bool:
        return bool((await stack.admin("GET", "stats"))["generations_completed"] == 1)

    await until(is_finished)
    before = await text_of(asked)
    path = f"/v1/sessions/{asked.session}/runs/{asked.run}/cancel"
    cancelled = await asked.client.http.post(path)
    run = await asked.client.ended(asked.session, asked.run)
    assert run["status"] == "completed"
    assert run["usage"]["output_tokens"] > 0
    after = await text_of(asked)
    assert after.startswith(before)
    assert "241" in after
    (blocks,) = await readers
    assert resets(blocks) == []
    # Silence may have been noticed before it was cancelled.
    assert cancelled.status_code in {202, 409}
    # The thread holds the turn, and goes on.
    await asked.client.ask(asked.session, QUESTION)
    stats = await stack.admin("GET", "stats")
    assert (stats["conversations"], stats["items"]) == (1, 4)


@pytest.mark.parametrize("background", ["true", "false"])
async def test_a_cancelled_run_whose_worker_died_is_settled_and_not_generated_again(
    stack: Stack, staff: Staff, background: str
) -> None:
    await stack.admin("POST", "pace", {"tokens_per_second": 8})
    await staff.dismiss()
    (victim,) = await staff.of(1, UPSTREAM_BACKGROUND=background)
    asked = (await ask_at_once(stack, 1))[0]
    await under_way(stack, [asked])
    victim.process.signal(signal.SIGSTOP)
    path = f"/v1/sessions/{asked.session}/runs/{asked.run}/cancel"
    assert (await asked.client.call("POST", path, 202))["status"] == "cancelling"
    victim.process.kill()
    await staff.of(1)
    run = await asked.client.ended(asked.session, asked.run)
    assert (run["status"], run["attempts"]) == ("cancelled", 1)
    # Of a generation that ended with its connection the upstream tells nothing.
    assert (run["usage"] is None) == (background == "false")
    assert await text_of(asked)
    await upstream_is_idle(stack)
    assert await posts(stack) == 1


async def test_a_generation_that_somebody_cancels_upstream_is_not_made_again(
    stack: Stack, staff: Staff
) -> None:
    await stack.admin("POST", "pace", {"tokens_per_second": 8})
    await staff.of(1)
    asked = (await ask_at_once(stack, 1))[0]
    await under_way(stack, [asked])
    query = "SELECT upstream_response_id FROM runs WHERE id = $1"
    name = await stack.fetchval(query, asked.run)
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/responses/{name}/cancel"
    async with httpx2.AsyncClient(headers={"authorization": "Bearer k"}) as http:
        assert (await http.post(url)).is_success
    run = await asked.client.ended(asked.session, asked.run)
    assert (run["status"], run["attempts"]) == ("cancelled", 1)
    assert run["usage"]["output_tokens"] > 0
    assert await text_of(asked)
    assert await posts(stack) == 1


@pytest.mark.parametrize(
    "action",
    [{"type": "delay", "seconds": 4}, {"type": "status", "status": 503}],
    ids=lambda action: str(action["type"]),
)
async def test_an_upstream_that_does_not_answer_delays_no_cancellation_and_is_told_all_the_same(
    stack: Stack, staff: Staff, action: dict[str, Any]
) -> None:
    await stack.admin("POST", "pace", {"tokens_per_second": 5})
    await staff.of(1)
    await fault(stack, action, **CANCELS)
    asked = (await ask_at_once(stack, 1))[0]
    await under_way(stack, [asked])
    took = await cancel(asked.client, asked)
    if action["type"] == "delay":
        assert took < 4
    run = await asked.client.run(asked.session, asked.run)
    assert run["status"] == "cancelled"
    await upstream_is_idle(stack)
    assert (await stack.admin("GET", "stats"))["generations_completed"] == 0


async def test_a_run_whose_time_is_up_is_cancelled_upstream(stack: Stack, staff: Staff) -> None:
    await stack.admin("POST", "pace", {"tokens_per_second": 5})
    await staff.dismiss()
    await staff.of(1, RUN_TIMEOUT_S="3")
    asked = (await ask_at_once(stack, 1))[0]
    run = await asked.client.ended(asked.session, asked.run)
    assert (run["status"], run["last_error"]["code"]) == ("expired", "run_timeout")
    assert run["usage"]["output_tokens"] > 0
    await upstream_is_idle(stack)
    assert (await stack.admin("GET", "stats"))["generations_completed"] == 0
    await staff.dismiss()


async def test_an_interrupted_answer_stops_before_the_next_is_made(
    stack: Stack, staff: Staff
) -> None:
    await staff.of(1)
    asked = (await ask_at_once(stack, 1))[0]
    await under_way(stack, [asked])
    posted = await asked.client.post(asked.session, QUESTION, on_active_run="interrupt")
    following = Asked(asked.client, asked.session, posted["run"]["id"])
    rows = await all_end(stack, [asked, following])
    ends = {row["id"]: (row["status"], row["attempts"]) for row in rows}
    assert ends == {asked.run: ("cancelled", 1), following.run: ("completed", 1)}
    stats = await stack.admin("GET", "stats")
    assert (stats["response_posts"], stats["generations_completed"]) == (2, 1)


async def test_many_are_cancelled_at_once(stack: Stack, staff: Staff) -> None:
    await staff.of(2)
    asked = await ask_at_once(stack, RUNS)
    await under_way(stack, asked)
    await asyncio.gather(*(cancel(each.client, each) for each in asked))
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"cancelled"}
    # Told of all, but not waited for longer than a student would.
    assert [row for row in rows if row["usage"] is not None]
    await upstream_is_idle(stack)
