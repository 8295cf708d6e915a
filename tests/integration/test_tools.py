"""Functions: called by the server or by the client, answered together, and the run goes on."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.conftest import NewDatabase
from tests.e2e.invariants import check
from tests.stack import Block, Client, Stack, blocks_of, running, until

PLOT: Any = {
    "type": "function",
    "function": {
        "name": "plot",
        "description": "Draws a graph.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    },
}
CALCULATE: Any = {"type": "function", "function": {"name": "calculate"}}
CHECK: Any = {"type": "function", "function": {"name": "check_equation"}}
BOTH = "Announce: please calculate `2(3 + 4)^2 / 7` and plot `x + 1`"
PLOTTED = "Please plot `x + 1`"


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    async with running(await new_database(), tmp_path_factory.mktemp("tools")) as found:
        yield found


@pytest.fixture(autouse=True)
async def sound(stack: Stack) -> AsyncIterator[None]:
    yield
    await stack.admin("DELETE", "faults")
    await check(stack.database_url)


async def opened(stack: Stack, *tools: Any) -> tuple[Client, str]:
    """Return a client, and a session of its with a tutor that has tools."""
    client = stack.client(scope="assistants:write", tenant=f"tenant-{uuid.uuid4().hex[:8]}")
    fields = {"name": "Tutor", "instructions": "Be kind.", "model": "m", "tools": list(tools)}
    assistant = await client.call("POST", "/v1/assistants", 201, json=fields)
    return client, await client.open_session(assistant_id=assistant["id"])


async def waiting(client: Client, session: str, content: str, **fields: Any) -> Any:
    """Ask, and return the run once it waits for its client."""
    posted = await client.post(session, content, **fields)
    return await that_waits(client, session, posted["run"]["id"])


async def that_waits(client: Client, session: str, run_id: str) -> Any:
    async def waits() -> Any:
        run = await client.run(session, run_id)
        assert run["ended_at"] is None, run
        return run if run["status"] == "requires_action" else None

    return await until(waits)


def calls_of(run: Any) -> list[Any]:
    return list(run["required_action"]["tool_calls"])


async def submit(client: Client, session: str, run: Any, expect: int = 202, **outputs: str) -> Any:
    """Answer a run's calls: outputs by the functions' names, or all with the same words."""
    given = [
        {
            "tool_call_id": call["id"],
            "output": outputs.get(call["function"]["name"], "It was drawn."),
        }
        for call in calls_of(run)
    ]
    path = f"/v1/sessions/{session}/runs/{run['id']}/tool_outputs"
    return await client.call("POST", path, expect, json={"tool_outputs": given})


async def text_of(client: Client, session: str, run: Any) -> list[str]:
    path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
    return [part["text"] for part in (await client.call("GET", path, 200))["content"]]


def told(blocks: list[Block]) -> list[str]:
    """Return what a run's events say, deltas that follow each other as one."""
    found: list[str] = []
    for block in blocks:
        name = block.event
        if name == "run.step":
            step = json.loads(block.data)["step"]
            name = f"{step['kind']} {step['status']}"
        if not found or found[-1] != name:
            found.append(name)
    return found


async def test_two_parallel_calls_are_answered_by_the_server_and_by_the_client(
    stack: Stack,
) -> None:
    client, session = await opened(stack, CALCULATE, PLOT)
    run = await waiting(client, session, BOTH)
    (call,) = calls_of(run)
    assert (call["type"], call["function"]["name"]) == ("function", "plot")
    assert json.loads(call["function"]["arguments"]) == {"expression": "x + 1"}
    path = f"/v1/sessions/{session}/runs/{run['id']}/events"
    reading = asyncio.create_task(client.stream(path))
    going = await submit(client, session, run, plot="A straight line.")
    assert (going["status"], going["required_action"]) == ("queued", None)
    ended = await client.ended(session, run["id"])
    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    assert ended["usage"]["total_tokens"] > run["usage"]["total_tokens"] > 0
    announced, answer = await text_of(client, session, ended)
    assert "`calculate`, `plot`" in announced
    assert '"value":"14"' in answer
    assert "A straight line." in answer

    blocks = blocks_of(await reading)
    assert told(blocks) == [
        "message.created", "run.queued", "run.in_progress", "message.created", "message.delta",
        "function in_progress", "run.requires_action", "function completed", "run.queued",
        "run.in_progress", "message.delta", "message.completed", "run.completed", "done",
    ]  # fmt: skip
    last = [json.loads(b.data)["step"] for b in blocks if b.event == "run.step"][-1]
    assert [(call["name"], call["output"]) for call in last["details"]["calls"]] == [
        ("calculate", '{"value":"14","decimal":14.0,"latex":"14"}'),
        ("plot", "A straight line."),
    ]
    # The next question goes on in the same thread.
    query = "SELECT upstream_thread_id FROM sessions WHERE id = $1"
    thread = await stack.fetchval(query, session)
    assert thread is not None
    await client.ask(session, "What is 1 + 1?")
    assert await stack.fetchval(query, session) == thread


async def test_calls_of_the_server_s_own_tools_ask_nobody(stack: Stack) -> None:
    client, session = await opened(stack, CALCULATE, CHECK)
    question = "calculate `1/3 + 1/6`, afterwards check_equation `2x + 1 = 7` where x = 3"
    posted = await client.post(session, question)
    path = f"/v1/sessions/{session}/runs/{posted['run']['id']}/events"
    blocks = blocks_of(await client.stream(path))
    assert told(blocks) == [
        "message.created", "run.queued", "run.in_progress", "function in_progress",
        "function completed", "function in_progress", "function completed", "message.created",
        "message.delta", "message.completed", "run.completed", "done",
    ]  # fmt: skip
    ended = await client.run(session, posted["run"]["id"])
    assert ended["attempts"] == 3
    (answer,) = await text_of(client, session, ended)
    assert '"value":"1/2"' in answer
    assert '"holds":true' in answer


async def test_a_function_that_describes_its_parameters_is_the_client_s_whatever_its_name(
    stack: Stack,
) -> None:
    parameters = {"type": "object", "properties": {"expression": {"type": "string"}}}
    own = {"type": "function", "function": {"name": "calculate", "parameters": parameters}}
    client, session = await opened(stack, own)
    run = await waiting(client, session, "Please calculate `2 + 3`")
    await submit(client, session, run, calculate="six")
    ended = await client.ended(session, run["id"])
    assert "six" in "".join(await text_of(client, session, ended))


async def test_what_a_tool_can_not_do_the_tutor_reads(stack: Stack) -> None:
    client, session = await opened(stack, CALCULATE)
    run, answer = await client.ask(session, "Please calculate `1 / 0`")
    assert run["status"] == "completed"
    assert '"error":"undefined' in answer


OUTPUTS: dict[str, list[int]] = {"one is missing": [0], "none": [], "one twice": [0, 0, 1]}


@pytest.mark.parametrize("given", [*OUTPUTS, "one is of another"])
async def test_every_open_call_must_be_answered_once(stack: Stack, given: str) -> None:
    client, session = await opened(stack, PLOT, PLOT | {"function": {"name": "look_up"}})
    run = await waiting(client, session, "Please plot and look_up `x + 1`")
    ids = [call["id"] for call in calls_of(run)]
    assert len(ids) == 2
    chosen = [ids[index] for index in OUTPUTS.get(given, [])] or [ids[0], "call_other"]
    body = {"tool_outputs": [{"tool_call_id": each, "output": "x"} for each in chosen]}
    if given == "none":
        body = {"tool_outputs": []}
    path = f"/v1/sessions/{session}/runs/{run['id']}/tool_outputs"
    refused = await client.call("POST", path, 422, json=body)
    if given != "none":
        assert refused["code"] == "tool_outputs_mismatch"
        assert all(each in refused["detail"] for each in ids)
        assert "call_other" not in refused["detail"]
    assert (await client.run(session, run["id"]))["status"] == "requires_action"
    await submit(client, session, run)
    assert (await client.ended(session, run["id"]))["status"] == "completed"


async def test_outputs_are_refused_where_none_are_wanted_or_too_long_or_not_one_s_own(
    stack: Stack,
) -> None:
    client, session = await opened(stack, PLOT)
    run = await waiting(client, session, PLOTTED)
    path = f"/v1/sessions/{session}/runs/{run['id']}/tool_outputs"
    (call,) = calls_of(run)

    def body(output: Any) -> dict[str, Any]:
        return {"tool_outputs": [{"tool_call_id": call["id"], "output": output}]}

    too_long = await client.call("POST", path, 422, json=body("x" * 200_001))
    assert "200000" in too_long["errors"][0]["msg"]
    for wrong in (5, None, "a\x00b"):
        await client.call("POST", path, 422, json=body(wrong))
    stranger = stack.client()
    await stranger.call("POST", path, 404, json=body("x"))
    await client.call("POST", path, 202, json=body("x" * 200_000))
    again = await client.call("POST", path, 409, json=body("x"))
    assert again["code"] == "no_action_required"
    ended = await client.ended(session, run["id"])
    assert ended["status"] == "completed"
    await client.call("POST", path, 409, json=body("x"))


async def test_outputs_that_are_sent_again_with_their_key_are_answered_as_the_first_time(
    stack: Stack,
) -> None:
    client, session = await opened(stack, PLOT)
    run = await waiting(client, session, PLOTTED)
    path = f"/v1/sessions/{session}/runs/{run['id']}/tool_outputs"
    body = {"tool_outputs": [{"tool_call_id": calls_of(run)[0]["id"], "output": "Drawn."}]}
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = await client.call("POST", path, 202, json=body, headers=headers)
    await client.ended(session, run["id"])
    assert await client.call("POST", path, 202, json=body, headers=headers) == first
    other = {"tool_outputs": [{**body["tool_outputs"][0], "output": "Other."}]}
    await client.call("POST", path, 422, json=other, headers=headers)


async def test_a_run_goes_on_before_what_waits_in_its_session(stack: Stack) -> None:
    client, session = await opened(stack, PLOT)
    run = await waiting(client, session, PLOTTED)
    later = await client.post(session, "What is 20 + 22?", on_active_run="enqueue")
    busy = await client.call(
        "POST", f"/v1/sessions/{session}/messages", 409, json={"content": "And 1 + 1?"}
    )
    assert busy["active_run_id"] == run["id"]
    await submit(client, session, run)
    first, second = [await client.ended(session, each) for each in (run["id"], later["run"]["id"])]
    assert (first["status"], second["status"]) == ("completed", "completed")
    assert first["ended_at"] < second["started_at"]
    assert (await client.run(session, run["id"]))["expires_at"] is None


async def calls_upstream(stack: Stack, session: str) -> tuple[int, int]:
    """Count the calls, and the outputs, that the session's thread holds."""
    query = "SELECT upstream_thread_id FROM sessions WHERE id = $1"
    thread = await stack.fetchval(query, session)
    client = stack.client()
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/conversations/{thread}/items?limit=100"
    items = (await client.http.get(url)).json()["data"]
    kinds = [item["type"] for item in items]
    return kinds.count("function_call"), kinds.count("function_call_output")


async def forget_calls(stack: Stack, session: str) -> None:
    """Delete the calls from the session's thread."""
    query = "SELECT upstream_thread_id FROM sessions WHERE id = $1"
    thread = await stack.fetchval(query, session)
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/conversations/{thread}/items"
    client = stack.client()
    for item in (await client.http.get(url, params={"limit": 100})).json()["data"]:
        if item["type"] == "function_call":
            assert (await client.http.delete(f"{url}/{item['id']}")).is_success


@pytest.mark.parametrize("when", ["it waits", "its outputs are in", "its calls are gone"])
@pytest.mark.parametrize("rounds", [1, 2])
async def test_a_thread_that_is_lost_between_rounds_is_filled_with_the_calls(
    stack: Stack, when: str, rounds: int
) -> None:
    client, session = await opened(stack, CALCULATE, PLOT)
    await client.ask(session, "What is 1 + 1?")
    first = "Announce calculate `2 + 3`, afterwards " if rounds == 2 else "Announce "
    run = await waiting(client, session, f"{first} plot `x + 1`")
    mark = f"mark{uuid.uuid4().hex}"
    if when == "it waits":
        await stack.admin("POST", "reset")
    elif when == "its calls are gone":
        await forget_calls(stack, session)
    else:
        lost = {"type": "status", "status": 404, "message": "Conversation with id 'x' not found."}
        rule = {"method": "POST", "path": "/v1/responses", "text": mark, "action": lost}
        await stack.admin("POST", "faults", rule)
    await submit(client, session, run, plot=f"A line, {mark}")
    ended = await client.ended(session, run["id"])
    assert (ended["status"], ended["attempts"]) == ("completed", rounds + 1)
    texts = await text_of(client, session, ended)
    assert mark in texts[-1]
    assert len(texts) == 2
    assert await calls_upstream(stack, session) == (rounds, rounds)
    _, answer = await client.ask(session, "What is 20 + 22?")
    assert "42" in answer


async def test_an_upstream_that_is_away_between_rounds_is_asked_again(stack: Stack) -> None:
    client, session = await opened(stack, PLOT)
    run = await waiting(client, session, PLOTTED)
    mark = f"mark{uuid.uuid4().hex}"
    away = {"type": "status", "status": 503}
    rule = {"method": "POST", "path": "/v1/responses", "text": mark, "times": 2, "action": away}
    await stack.admin("POST", "faults", rule)
    await submit(client, session, run, plot=mark)
    ended = await client.ended(session, run["id"])
    # One for the first round, three for the second: each has as many as a run without tools.
    assert (ended["status"], ended["attempts"]) == ("completed", 4)
    assert mark in "".join(await text_of(client, session, ended))


async def test_a_round_that_is_cut_withdraws_what_it_said_and_keeps_what_was_said_before(
    stack: Stack,
) -> None:
    client, session = await opened(stack, PLOT)
    run = await waiting(client, session, "Announce, and plot `x + 1`")
    mark = f"mark{uuid.uuid4().hex}"
    cut = {"type": "reset", "at": {"event": "response.output_text.delta", "nth": 4}}
    rule = {"method": "POST", "path": "/v1/responses", "text": mark, "action": cut}
    await stack.admin("POST", "faults", rule)
    path = f"/v1/sessions/{session}/runs/{run['id']}/events"
    reading = asyncio.create_task(client.stream(path))
    await submit(client, session, run, plot=f"It was drawn, says {mark}, in blue.")
    blocks = blocks_of(await reading)
    (reset,) = [json.loads(b.data) for b in blocks if b.event == "message.reset"]
    assert (reset["from_part"], reset["reason"]) == (1, "retried")
    ended = await client.run(session, run["id"])
    assert (ended["status"], ended["attempts"]) == ("completed", 3)
    announced, answer = await text_of(client, session, ended)
    assert "`plot`" in announced
    assert mark in answer


async def test_a_run_that_waits_is_cancelled_and_the_next_question_is_answered_in_context(
    stack: Stack,
) -> None:
    client, session = await opened(stack, PLOT)
    run = await waiting(client, session, PLOTTED)
    path = f"/v1/sessions/{session}/runs/{run['id']}"
    cancelled = await client.call("POST", f"{path}/cancel", 202)
    assert cancelled["status"] == "cancelled"
    body = {"tool_outputs": [{"tool_call_id": calls_of(run)[0]["id"], "output": "x"}]}
    await client.call("POST", f"{path}/tool_outputs", 409, json=body)
    after, answer = await client.ask(session, "What is 20 + 22?")
    assert (after["status"], after["attempts"]) == ("completed", 1)
    assert "42" in answer
    blocks = blocks_of(await client.stream(f"{path}/events"))
    assert told(blocks)[-3:] == ["function cancelled", "run.cancelled", "done"]


async def test_an_interrupting_question_ends_the_one_that_waits(stack: Stack) -> None:
    client, session = await opened(stack, PLOT)
    run = await waiting(client, session, PLOTTED)
    posted = await client.post(session, "What is 20 + 22?", on_active_run="interrupt")
    assert (await client.ended(session, posted["run"]["id"]))["status"] == "completed"
    assert (await client.run(session, run["id"]))["status"] == "cancelled"


async def test_a_tutor_that_calls_without_end_is_stopped(stack: Stack) -> None:
    client, session = await opened(stack, CALCULATE)
    question = " afterwards ".join(["calculate `1 + 1`"] * 40)
    run, _ = await client.ask(session, question, within=60)
    assert (run["status"], run["last_error"]["code"]) == ("failed", "too_many_rounds")
    assert run["attempts"] == 25
    _, answer = await client.ask(session, "What is 20 + 22?")
    assert "42" in answer


async def test_a_run_whose_tools_are_never_called_expires_and_the_session_goes_on(
    stack: Stack,
) -> None:
    client, session = await opened(stack, PLOT)
    await client.ask(session, "What is 1 + 1?")
    run = await waiting(client, session, PLOTTED)
    # Its ten minutes pass.
    await execute(stack, "UPDATE runs SET expires_at = now() WHERE id = $1", run["id"])
    ended = await client.ended(session, run["id"], within=40)
    assert (ended["status"], ended["last_error"]["code"]) == ("expired", "action_timeout")
    _, answer = await client.ask(session, "What is 20 + 22?")
    assert "42" in answer
    blocks = blocks_of(await client.stream(f"/v1/sessions/{session}/runs/{run['id']}/events"))
    assert told(blocks)[-3:] == ["function expired", "run.expired", "done"]


async def execute(stack: Stack, statement: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(stack.database_url)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()
