"""However the stream of a background answer breaks, the answer is made once and told once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.integration.test_upstream_faults import (
    AT_ONCE,
    CUTS,
    PATIENCE_S,
    SCENARIOS,
    WITHIN_S,
    Result,
    Scenario,
    install,
    play,
)
from tests.stack import Stack, running, until

BROKEN = [
    # Before `created` nobody knows the answer's name.
    *(cut for cut in CUTS if not cut.name.endswith("created")),
    *(
        scenario
        for scenario in SCENARIOS
        if scenario.name
        in {
            "reset in a delta",
            "eof after a delta",
            "reset at completed",
            "eof at completed",
            "garbage",
            "bad UTF-8",
            "50 MB",
            "no numbers",
            "a slow drip",
            "stall in the answer",
        }
    ),
]


@pytest.fixture(scope="module")
async def stack(
    new_database: Callable[[], Awaitable[str]], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("background_faults")
    settings = {
        "UPSTREAM_BACKGROUND": "true",
        "UPSTREAM_FIRST_BYTE_S": PATIENCE_S,
        "UPSTREAM_IDLE_S": PATIENCE_S,
    }
    async with running(await new_database(), folder, **settings) as made:
        yield made


@pytest.fixture(scope="module")
async def results(stack: Stack) -> AsyncIterator[dict[str, asyncio.Task[Result]]]:
    """Play the scenarios, some at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(scenario: Scenario) -> Result:
        async with room:
            return await play(stack, scenario)

    tasks = {scenario.name: asyncio.create_task(one(scenario)) for scenario in BROKEN}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("status", ["cancelled", "expired", "failed", "incomplete"])
async def test_what_the_upstream_says_became_of_an_answer_is_what_became_of_it(
    stack: Stack, status: str
) -> None:
    # Its rules match whoever asks: it comes before the scenarios, which play beside each other.
    client = stack.client()
    session = await client.open_session()
    mark = f"{status}{client.user}"
    cut = {"type": "reset", "at": {"event": "response.output_text.delta", "nth": 3}}
    await install(stack, mark, (cut,))
    body = {
        "id": "resp_1",
        "status": status,
        "output": [],
        "error": {"code": "invalid_prompt"},
        "incomplete_details": {"reason": "max_output_tokens"},
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    }
    answer = {"action": {"type": "json_body", "body": body}}
    rule = {"id": f"{mark} asked", "method": "GET", "path": "/v1/responses/*"}
    await stack.admin("POST", "faults", rule | answer)
    run, text = await client.ask(session, f"What is 20 + 22? (ref {mark})", within=WITHIN_S)
    assert (run["status"], run["attempts"]) == (status, 1)
    assert run["usage"] == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert bool(text) == (status != "incomplete")
    reasons = {"expired": "run_timeout", "failed": "upstream_rejected"}
    assert (run["last_error"] or {}).get("code") == reasons.get(status)
    _, after = await client.ask(session, "What is 100 + 23?", within=WITHIN_S)
    assert "123" in after


@pytest.mark.parametrize("scenario", BROKEN, ids=lambda scenario: scenario.name)
async def test_a_broken_stream_costs_no_second_generation_and_no_word_is_told_twice(
    results: dict[str, asyncio.Task[Result]], scenario: Scenario
) -> None:
    result = await results[scenario.name]
    assert (result.run["status"], result.run["attempts"], result.posts) == ("completed", 1, 1)
    assert result.run["usage"]["total_tokens"] > 0
    assert "42" in result.text
    assert [block for block in result.blocks if block.event == "message.reset"] == []
    assert result.after["status"] == "completed"
    assert result.known == result.seen


async def test_an_answer_that_is_stuck_is_waited_for_and_then_cancelled(
    new_database: Callable[[], Awaitable[str]], tmp_path: Path
) -> None:
    settings = {"UPSTREAM_BACKGROUND": "true", "UPSTREAM_IDLE_S": "1", "RUN_TIMEOUT_S": "5"}
    async with running(await new_database(), tmp_path, **settings) as hasty:
        client = hasty.client()
        session = await client.open_session()
        await install(hasty, "stuck", ({"type": "stuck"},))
        posted = await client.post(session, "What is 20 + 22? (stuck)")
        run = await client.ended(session, posted["run"]["id"], within=WITHIN_S)
        assert (run["status"], run["attempts"]) == ("expired", 1)

        async def is_over() -> bool:
            stats = await hasty.admin("GET", "stats")
            return bool(stats["running"] == stats["locked_conversations"] == 0)

        await until(is_over)
        assert (await hasty.admin("GET", "stats"))["response_posts"] == 1
        _, text = await client.ask(session, "What is 100 + 23?")
        assert "123" in text
