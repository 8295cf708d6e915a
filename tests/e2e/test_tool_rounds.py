"""Workers killed between the rounds of a run that calls functions: one answer, each call once."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import NewDatabase
from tests.e2e.crew import Hand, hire, started
from tests.e2e.invariants import check, check_logs
from tests.integration.test_tools import (
    CALCULATE,
    PLOT,
    calls_of,
    execute,
    opened,
    submit,
    text_of,
    told,
    waiting,
)
from tests.stack import Stack, blocks_of, until

LEASE_S = 1
WITHIN_S = 60
SLOW = 8


@pytest.fixture(scope="module", params=["foreground", "background"])
async def stack(
    request: pytest.FixtureRequest,
    new_database: NewDatabase,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stack]:
    """An API process and a sandbox; workers are each test's own."""
    background = str(request.param == "background").lower()
    settings = {"RUN_LEASE_S": str(LEASE_S), "UPSTREAM_BACKGROUND": background}
    folder = tmp_path_factory.mktemp(f"rounds_{request.param}")
    async with started(await new_database(), folder, **settings) as found:
        yield found


@pytest.fixture(autouse=True)
async def sound(stack: Stack) -> AsyncIterator[None]:
    yield
    for process in stack.processes:
        if process.command == ["worker"]:
            process.kill()
    await stack.admin("DELETE", "faults")
    await check(stack.database_url)
    check_logs(stack.logs(), "canary4711")


async def generations(stack: Stack) -> int:
    return int((await stack.admin("GET", "stats"))["generations"])


async def has_outputs(stack: Stack, run: str) -> None:
    """Wait until the outputs of the first round are stored."""
    query = "SELECT count(*) FROM run_steps WHERE run_id = $1 AND status = 'completed'"

    async def stored() -> bool:
        return bool(await stack.fetchval(query, run))

    await until(stored, within=WITHIN_S)


async def test_a_worker_killed_while_it_answers_with_outputs_is_followed_by_another(
    stack: Stack,
) -> None:
    first = await hire(stack)
    client, session = await opened(stack, CALCULATE, PLOT)
    run = await waiting(
        client, session, "Announce: calculate `2 + 3` and plot `x + 1`, canary4711"
    )
    mark = f"mark{uuid.uuid4().hex}"
    await stack.admin("POST", "pace", {"tokens_per_second": SLOW, "text": mark})
    path = f"/v1/sessions/{session}/runs/{run['id']}/events"
    reading = asyncio.create_task(client.stream(path))
    await submit(client, session, run, plot=f"{mark}, a line, a point, another point, the end.")
    query = "SELECT count(*) FROM events WHERE run_id = $1 AND type = 'message.delta' AND seq > $2"
    last = await stack.fetchval(
        "SELECT max(seq) FROM events WHERE run_id = $1 AND type = 'run.in_progress'", run["id"]
    )

    async def speaks() -> bool:
        return bool(await stack.fetchval(query, run["id"], last) >= 3)

    await until(speaks, within=WITHIN_S)
    first.process.kill()
    await hire(stack)
    ended = await client.ended(session, run["id"], within=WITHIN_S)
    assert ended["status"] == "completed"
    announced, answer = await text_of(client, session, ended)
    assert "`calculate`, `plot`" in announced
    assert mark in answer
    assert '"value":"5"' in answer
    blocks = blocks_of(await reading)
    assert told(blocks).count("function completed") == 1
    assert told(blocks)[-1] == "done"
    resets = [json.loads(b.data) for b in blocks if b.event == "message.reset"]
    assert all(reset["from_part"] == 1 for reset in resets)


async def test_outputs_that_come_while_no_worker_lives_are_not_lost(stack: Stack) -> None:
    first = await hire(stack)
    client, session = await opened(stack, PLOT)
    run = await waiting(client, session, "Please plot `x + 1`, canary4711")
    first.process.kill()
    await submit(client, session, run, plot="It was drawn.")
    later = await client.post(session, "What is 20 + 22?", on_active_run="enqueue")
    before = await generations(stack)
    await hire(stack)
    ended = await client.ended(session, run["id"], within=WITHIN_S)
    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    assert "It was drawn." in "".join(await text_of(client, session, ended))
    assert (await client.ended(session, later["run"]["id"]))["status"] == "completed"
    assert await generations(stack) == before + 2


BEFORE = """
UPDATE runs r SET attempts = 1, upstream_response_id = s.response_id
FROM run_steps s WHERE s.run_id = r.id AND r.id = $1
"""
"""As if it had been killed before it counted: the name of the first generation stands."""


@pytest.mark.parametrize("when", ["before it counted", "as it sends"])
async def test_a_worker_killed_as_it_sends_outputs_is_followed_by_one_that_sends_them(
    stack: Stack, when: str
) -> None:
    first = await hire(stack)
    client, session = await opened(stack, CALCULATE)
    mark = f"mark{uuid.uuid4().hex}"
    # The second round's request is never answered: its text holds what the tool returned.
    rule = {
        "method": "POST",
        "path": "/v1/responses",
        "text": "31415926",
        "action": {"type": "stall", "seconds": 600},
    }
    await stack.admin("POST", "faults", rule)
    posted = await client.post(session, f"calculate `31415925 + 1`, {mark}")
    await has_outputs(stack, posted["run"]["id"])
    await asyncio.sleep(0.3)
    first.process.kill()
    if when == "before it counted":
        await execute(stack, BEFORE, posted["run"]["id"])
    await stack.admin("DELETE", "faults")
    await hire(stack)
    ended = await client.ended(session, posted["run"]["id"], within=WITHIN_S)
    assert ended["status"] == "completed"
    assert ended["attempts"] == (2 if when == "before it counted" else 3)
    assert "31415926" in "".join(await text_of(client, session, ended))
    path = f"/v1/sessions/{session}/runs/{posted['run']['id']}/events"
    assert told(blocks_of(await client.stream(path))).count("function completed") == 1
    _, answer = await client.ask(session, "What is 20 + 22?", within=WITHIN_S)
    assert "42" in answer


async def test_a_worker_killed_while_it_asks_for_calls_leaves_one_step(stack: Stack) -> None:
    first = await hire(stack)
    client, session = await opened(stack, PLOT)
    mark = f"mark{uuid.uuid4().hex}"
    cut = {"event": "response.output_item.done"}
    rule = {
        "method": "POST",
        "path": "/v1/responses",
        "text": mark,
        "times": 1,
        "action": {"type": "stall", "at": cut, "seconds": 600},
    }
    await stack.admin("POST", "faults", rule)
    posted = await client.post(session, f"Please plot `x + 1`, {mark}")
    run_id = posted["run"]["id"]
    query = "SELECT count(*) FROM run_steps WHERE run_id = $1"

    async def is_told() -> bool:
        return bool(await stack.fetchval(query, run_id))

    await until(is_told, within=WITHIN_S)
    first.process.kill()
    await stack.admin("DELETE", "faults")
    await hire(stack)

    async def waits() -> Any:
        run = await client.run(session, run_id)
        return run if run["status"] == "requires_action" else None

    run = await until(waits, within=WITHIN_S)
    assert await stack.fetchval(query, run_id) == 1
    assert len(calls_of(run)) == 1
    await submit(client, session, run)
    ended = await client.ended(session, run_id, within=WITHIN_S)
    assert ended["status"] == "completed"


async def test_a_cancellation_that_meets_the_calls_is_not_forgotten(stack: Stack) -> None:
    """However it falls: before the calls, with them, after them, the run ends as cancelled."""
    worker: Hand = await hire(stack)
    client, session = await opened(stack, PLOT)
    for delay in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
        posted = await client.post(session, "Please plot `x + 1`")
        await asyncio.sleep(delay)
        path = f"/v1/sessions/{session}/runs/{posted['run']['id']}/cancel"
        await client.call("POST", path, 202)
        ended = await client.ended(session, posted["run"]["id"], within=WITHIN_S)
        assert ended["status"] == "cancelled"
    assert worker.process.popen.poll() is None
    _, answer = await client.ask(session, "What is 20 + 22?")
    assert "42" in answer
