"""What the upstream knows of a conversation is what its student saw, whatever became of a turn."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.test_upstream_faults import (
    DELTA,
    WITHIN_S,
    Action,
    install,
    items_in,
    thread_of,
    threads_of,
)
from tests.stack import Client, Stack, running, until

PLOT = {
    "type": "function",
    "function": {
        "name": "plot",
        "description": "Draw it.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
CUT = {"type": "reset", "at": {"event": DELTA, "nth": 4}}
SLOW = 8


@pytest.fixture(scope="module", params=["foreground", "background"])
async def stack(
    request: pytest.FixtureRequest,
    new_database: Callable[[], Awaitable[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    background = str(request.param == "background").lower()
    settings = {"UPSTREAM_BACKGROUND": background, "RUN_MAX_ATTEMPTS": "2"}
    async with running(await new_database(), folder, **settings) as made:
        yield made


async def cancel(client: Client, session: str, run: str) -> Any:
    return await client.call("POST", f"/v1/sessions/{session}/runs/{run}/cancel", 202)


async def transcript(client: Client, session: str) -> list[tuple[str, str]]:
    """Return who said what, in order."""
    path = f"/v1/sessions/{session}/messages"
    listed = await client.call("GET", path, 200, params={"order": "asc", "limit": 100})
    assert all(message["status"] != "in_progress" for message in listed["data"])
    told = [(m["role"], "".join(part["text"] for part in m["content"])) for m in listed["data"]]
    return [(role, text) for role, text in told if text]


async def assert_known(stack: Stack, client: Client, session: str) -> list[tuple[str, str]]:
    """Ask something, and check that the upstream then knows the whole transcript."""
    run, text = await client.ask(session, "What is 100 + 23?", within=WITHIN_S)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert "123" in text
    said = await transcript(client, session)
    assert await items_in(stack, await thread_of(stack, session)) == said
    return said


async def begun(stack: Stack, client: Client, session: str, text: str) -> str:
    """Ask, and wait until a part of the answer can be read; return the run."""
    run = str((await client.post(session, text))["run"]["id"])
    query = "SELECT count(*) FROM events WHERE run_id = $1 AND type = 'message.delta'"

    async def speaks() -> bool:
        return bool(await stack.fetchval(query, run) >= 2)

    await until(speaks, within=60)
    return run


async def answered(stack: Stack) -> tuple[Client, str, str]:
    """Return a client, a session with a turn, and a word that makes the next answer slow."""
    client = stack.client()
    session = await client.open_session()
    await client.ask(session, "What is 1 + 1?")
    await stack.admin("POST", "pace", {"tokens_per_second": SLOW, "text": f"mark{client.user}"})
    return client, session, f"mark{client.user}"


async def test_a_turn_that_was_cancelled_in_the_middle(stack: Stack) -> None:
    client, session, mark = await answered(stack)
    run = await begun(stack, client, session, f"What is 20 + 22? (ref {mark})")
    await cancel(client, session, run)
    assert (await client.ended(session, run))["status"] == "cancelled"
    said = await assert_known(stack, client, session)
    assert [role for role, _ in said] == ["user", "assistant"] * 3


async def test_a_session_that_is_deleted_stops_what_is_generated_for_it(stack: Stack) -> None:
    client, session, mark = await answered(stack)
    await begun(stack, client, session, f"What is 20 + 22? (ref {mark})")
    made = (await stack.admin("GET", "stats"))["generations_completed"]
    await client.call("DELETE", f"/v1/sessions/{session}", 204)

    async def is_over() -> bool:
        return bool((await stack.admin("GET", "stats"))["running"] == 0)

    await until(is_over)
    assert (await stack.admin("GET", "stats"))["generations_completed"] == made


async def test_a_turn_that_was_cancelled_before_its_first_word(stack: Stack) -> None:
    client, session, mark = await answered(stack)
    await install(stack, mark, ({"type": "stuck"},))
    run = (await client.post(session, f"What is 20 + 22? (ref {mark})"))["run"]["id"]

    async def is_asked() -> bool:
        return bool((await stack.admin("GET", "stats"))["running"] == 1)

    await until(is_asked)
    if stack.settings["UPSTREAM_BACKGROUND"] == "true":
        query = "SELECT upstream_response_id FROM runs WHERE id = $1"

        async def is_known_by_name() -> bool:
            return bool(await stack.fetchval(query, run))

        await until(is_known_by_name)
    await cancel(client, session, run)
    assert (await client.ended(session, run))["status"] == "cancelled"
    said = await assert_known(stack, client, session)
    assert [role for role, _ in said] == ["user", "assistant", "user", "user", "assistant"]


async def test_a_question_that_was_cancelled_in_the_queue(stack: Stack) -> None:
    client, session, mark = await answered(stack)
    run = await begun(stack, client, session, f"What is 20 + 22? (ref {mark})")
    waiting = await client.post(session, "What is 5 + 5?", on_active_run="enqueue")
    await cancel(client, session, waiting["run"]["id"])
    assert (await client.ended(session, run, within=WITHIN_S))["status"] == "completed"
    run, _ = await client.ask(session, "What is 100 + 23?")
    # By turn: the answer belongs before the question that was asked while it was made.
    roles = [role for role, _ in await items_in(stack, await thread_of(stack, session))]
    assert roles == ["user", "assistant"] * 2 + ["user", "user", "assistant"]


@pytest.mark.parametrize(
    ("actions", "status"),
    [
        (({"type": "fail", "code": "invalid_prompt", "after_deltas": 4},), "failed"),
        (({"type": "fail", "after_deltas": 4},) * 2, "failed"),
        (({"type": "error", "after_deltas": 4},) * 2, "failed"),
        (({"type": "status", "status": 503},) * 2, "failed"),
        (({"type": "incomplete", "after_deltas": 4},), "incomplete"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} {value[0]['type']}",
)
async def test_a_turn_that_the_upstream_ended_badly(
    stack: Stack, actions: tuple[Action, ...], status: str
) -> None:
    client, session, mark = await answered(stack)
    await install(stack, mark, actions)
    run, _ = await client.ask(session, f"What is 20 + 22? (ref {mark})", within=WITHIN_S)
    assert run["status"] == status
    await assert_known(stack, client, session)


@pytest.mark.parametrize(
    "actions",
    [
        (CUT,) * 2,
        ({**CUT, "type": "eof"},) * 2,
        ({**CUT, "type": "garbage_json"},) * 2,
        ({**CUT, "finish": True},) * 2,
        # What was shown is withdrawn, and nothing comes after it.
        (CUT, {"type": "status", "status": 503}),
    ],
    ids=["reset", "eof", "garbage", "reset and finished", "reset and refused"],
)
async def test_a_turn_that_was_cut_as_often_as_it_was_tried(
    stack: Stack, actions: tuple[Action, ...]
) -> None:
    client, session, mark = await answered(stack)
    await install(stack, mark, actions)
    run, _ = await client.ask(session, f"What is 20 + 22? (ref {mark})", within=WITHIN_S)
    assert run["status"] in {"failed", "completed"}
    await assert_known(stack, client, session)


async def test_a_turn_that_wanted_a_function_which_nobody_called(stack: Stack) -> None:
    client = stack.client(scope="assistants:write", tenant=f"tenant-{id(stack)}")
    fields = {"name": "Plotter", "instructions": "Plot.", "model": "m", "tools": [PLOT]}
    assistant = await client.call("POST", "/v1/assistants", 201, json=fields)
    session = await client.open_session(assistant_id=assistant["id"])
    await client.ask(session, "What is 1 + 1?")
    posted = await client.post(session, "Please plot x + 1")

    async def waits() -> bool:
        run = await client.run(session, posted["run"]["id"])
        return bool(run["status"] == "requires_action")

    await until(waits)
    first = await thread_of_or_none(stack, session)
    cancelled = await cancel(client, session, posted["run"]["id"])
    assert cancelled["status"] == "cancelled"
    assert cancelled["usage"]["total_tokens"] > 0
    said = await assert_known(stack, client, session)
    assert [role for role, _ in said] == ["user", "assistant", "user", "user", "assistant"]
    assert await threads_of(stack, session) == 2
    assert first != await thread_of(stack, session)


async def thread_of_or_none(stack: Stack, session: str) -> str | None:
    query = "SELECT upstream_thread_id FROM sessions WHERE id = $1"
    found: str | None = await stack.fetchval(query, session)
    return found


# ---------------------------------------------------------------- a thread that is lost


async def read_by(stack: Stack, run: str) -> list[str]:
    """Return the questions that the upstream was told for a run."""
    name = await stack.fetchval("SELECT upstream_response_id FROM runs WHERE id = $1", run)
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/responses/{name}/input_items"
    async with httpx2.AsyncClient(headers={"authorization": "Bearer k"}) as http:
        found = (await http.get(url, params={"order": "asc", "limit": 100})).json()
    return [
        "".join(part["text"] for part in item["content"])
        for item in found["data"]
        if item["role"] == "user"
    ]


async def test_a_rebuilt_thread_holds_long_conversations_in_order_and_no_later_question(
    stack: Stack,
) -> None:
    client = stack.client()
    session = await client.open_session()
    asked = [f"What is {n} + {n}?" for n in range(1, 12)]
    for question in asked:
        await client.ask(session, question)
    mark = f"mark{client.user}"
    await stack.admin("POST", "reset")
    await stack.admin("POST", "pace", {"tokens_per_second": SLOW, "text": mark})
    asked.append(f"What is 20 + 22? (ref {mark})")
    first = await begun(stack, client, session, asked[-1])
    behind = [f"What is {n} + 5?" for n in (5, 6, 7)]
    runs = [first]
    for question in behind:
        posted = await client.post(session, question, on_active_run="enqueue")
        runs.append(posted["run"]["id"])
    calls = (await stack.admin("GET", "stats"))["calls"]
    # Refused for the lost thread, and again in the one that was filled by two calls.
    assert calls["POST /v1/responses"] == 2
    assert calls["POST /v1/conversations"] == 1
    assert calls["POST /v1/conversations/{id}/items"] == 1
    assert await read_by(stack, first) == asked
    for number, run in enumerate(runs):
        assert (await client.ended(session, run, within=WITHIN_S))["status"] == "completed"
        assert await read_by(stack, run) == [*asked, *behind[:number]]
    # They were asked while others were answered: a thread that is lost again keeps the turns.
    whole = await items_in(stack, await thread_of(stack, session))
    assert [role for role, _ in whole] == ["user", "assistant"] * 15
    await stack.admin("POST", "reset")
    await client.ask(session, "What is 100 + 23?")
    again = await items_in(stack, await thread_of(stack, session))
    assert again[:-2] == whole
    assert await threads_of(stack, session) == 3


async def test_a_thread_that_is_lost_while_queued_runs_wait_is_lost_once(stack: Stack) -> None:
    client, session, mark = await answered(stack)
    run = await begun(stack, client, session, f"What is 20 + 22? (ref {mark})")
    runs = [run]
    for number in (5, 6):
        posted = await client.post(session, f"What is {number} + 5?", on_active_run="enqueue")
        runs.append(posted["run"]["id"])
    await stack.admin("POST", "reset")
    ended = [await client.ended(session, each, within=WITHIN_S) for each in runs]
    assert [each["status"] for each in ended] == ["completed"] * 3
    assert [each["attempts"] for each in ended] == [2, 1, 1]
    assert await threads_of(stack, session) == 2
    said = await items_in(stack, await thread_of(stack, session))
    assert [role for role, _ in said] == ["user", "assistant"] * 4


@pytest.mark.parametrize("kind", ["cut", "lost name"])
async def test_a_thread_that_is_held_by_a_lost_answer_is_waited_for_and_kept(
    stack: Stack, kind: str
) -> None:
    client, session, mark = await answered(stack)
    where = CUT if kind == "cut" else {"type": "reset", "at": {"event": "response.created"}}
    await install(stack, mark, ({**where, "finish": True},))
    thread = await thread_of(stack, session)
    run, text = await client.ask(session, f"What is 20 + 22? (ref {mark})", within=WITHIN_S)
    assert run["status"] == "completed"
    assert "42" in text
    assert await thread_of(stack, session) == thread
    assert await threads_of(stack, session) == 1
    await assert_known(stack, client, session)


async def test_many_sessions_lose_their_threads_at_once(stack: Stack) -> None:
    client = stack.client()
    sessions = [await client.open_session() for _ in range(5)]
    await asyncio.gather(*(client.ask(session, "What is 1 + 1?") for session in sessions))
    await stack.admin("POST", "reset")
    await asyncio.gather(*(assert_known(stack, client, session) for session in sessions))
    assert {await threads_of(stack, session) for session in sessions} == {2}
