"""Whatever the upstream does, a run ends in an answer or in a stated reason, and the next is fine.

The scenarios run beside each other on one stack, each with rules that only its own words match.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.stack import Block, Client, Stack, blocks_of, running, until

DELTA = "response.output_text.delta"
POSTS = "/v1/responses"
AT_ONCE = 8
"""Scenarios beside each other: silence is told from a slow machine by a few seconds only."""
PATIENCE_S = "4"
WITHIN_S = 100

FIRST = "다음의 방정식을 풀고 싶습니다. `3x**2 + 11x - 10 = 0`. 수학선생님 도와주실 수 있나요?"
SECOND = "설명이 잘 이해가 가지 않습니다. 좀 더 자세히 설명해 주실 수 있나요?"

Action = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Scenario:
    """Faults for the first calls of a run, one each, and how it has to end."""

    name: str
    faults: tuple[Action, ...]
    status: str = "completed"
    code: str | None = None
    attempts: tuple[int, ...] = (1,)
    refused: int = 0
    """POSTs that the upstream turned away for the thread's sake: they cost no attempt."""


def once(name: str, action: Action, *attempts: int) -> Scenario:
    return Scenario(name, (action,), attempts=attempts or (2,))


def at(event: str, kind: str, **more: Any) -> Action:
    return {"type": kind, "at": {"event": f"response.{event}"}, **more}


def status(number: int, **more: Any) -> Action:
    return {"type": "status", "status": number, **more}


def fatal(name: str, code: str, action: Action) -> Scenario:
    return Scenario(name, (action,), "failed", code)


def again(name: str, code: str, action: Action) -> Scenario:
    """Fail as often as a run may try."""
    return Scenario(f"{name} thrice", (action,) * 3, "failed", code, (3,))


REFUSED = {"type": "fail", "code": "invalid_prompt", "after_deltas": 4}
CUTS = [
    once(f"{kind} at {event}", at(event, kind))
    for kind in ("reset", "eof")
    for event in (
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    )
]
SCENARIOS = [
    *CUTS,
    once("reset in a delta", {**at("output_text.delta", "reset"), "position": "middle"}),
    once("eof after a delta", {**at("output_text.delta", "eof"), "position": "after"}),
    once("reset before the answer", {"type": "reset"}),
    # What the upstream finished is asked for, not made again.
    once("reset at completed", at("completed", "reset"), 1),
    once("eof at completed", at("completed", "eof"), 1),
    once("reset after the work", {"type": "reset", "after_work": True}, 1),
    once("500 after the work", status(500, after_work=True), 1),
    once("reset, and it goes on", at("output_text.delta", "reset", finish=True), 1),
    # The upstream may have finished by the time that the garbage is read.
    once("garbage", at("output_text.delta", "garbage_json"), 1, 2),
    once("bad UTF-8", at("output_text.delta", "bad_utf8"), 1, 2),
    once("50 MB", at("output_text.delta", "oversize", megabytes=50)),
    once("HTML", {"type": "html"}),
    once("JSON", {"type": "json_body"}),
    # These spoil no answer.
    once("duplicates", {"type": "duplicate"}, 1),
    once("a delta thrice", at("output_text.delta", "duplicate", count=3), 1),
    once("out of order", at("output_text.delta", "reorder"), 1),
    once("a delta is missing", at("output_text.delta", "drop"), 1),
    once("created is missing", at("created", "drop"), 1),
    once("no numbers", at("created", "no_sequence"), 1),
    once("an unknown event", at("output_text.delta", "unknown_event"), 1),
    once("a slow drip", at("created", "drip", chunk_bytes=400, interval_s=0.1), 1),
    once("a delay", {"type": "delay", "seconds": 0.5}, 1),
    # Silence.
    once("stall before the answer", {"type": "stall"}),
    once("stall before the first byte", at("created", "stall")),
    once("stall in the answer", at("output_text.delta", "stall")),
    once("stuck", {"type": "stuck"}),
    # Refusals that pass.
    once("429", status(429)),
    once("429 for a while", status(429, retry_after=1)),
    once("500", status(500)),
    once("503", status(503)),
    once("503 for a while", status(503, retry_after=1)),
    once("408", status(408)),
    once("409", status(409)),
    once("failed", {"type": "fail", "after_deltas": 2}),
    once("failed by a limit", {"type": "fail", "code": "rate_limit_exceeded"}),
    once("an error event", {"type": "error", "after_deltas": 2}),
    Scenario("two troubles", (status(503), at("output_text.delta", "reset")), attempts=(3,)),
    Scenario(
        "a busy thread",
        (status(400, code="conversation_locked"),) * 2,
        attempts=(1,),
        refused=2,
    ),
    Scenario(
        "a lost thread",
        (status(404, message="Conversation with id 'conv_1' not found."),),
        attempts=(1,),
        refused=1,
    ),
    Scenario(
        "a bricked thread",
        (status(400, message="No tool output found for function call call_1."),),
        attempts=(1,),
        refused=1,
    ),
    # Ends that are stated.
    fatal("refused in the answer", "upstream_rejected", REFUSED),
    Scenario("filtered", ({"type": "incomplete", "after_deltas": 3},), "incomplete"),
    fatal("400", "upstream_rejected", status(400)),
    fatal("401", "upstream_auth", status(401)),
    fatal("403", "upstream_auth", status(403)),
    fatal("404", "upstream_not_found", status(404, code="model_not_found")),
    fatal("too long", "context_too_long", status(400, code="context_length_exceeded")),
    fatal("quota", "upstream_quota", status(429, code="insufficient_quota")),
    fatal("429 for too long", "upstream_rate_limited", status(429, retry_after=500)),
    fatal("refused prompt", "upstream_rejected", {"type": "fail", "code": "invalid_prompt"}),
    again("429", "upstream_rate_limited", status(429)),
    again("500", "upstream_unavailable", status(500)),
    again("503", "upstream_unavailable", status(503)),
    again("408", "upstream_timeout", status(408)),
    again("reset", "upstream_interrupted", at("output_text.delta", "reset")),
    again("eof", "upstream_interrupted", at("output_text.delta", "eof")),
    again("HTML", "upstream_garbage", {"type": "html"}),
    again("50 MB", "upstream_garbage", at("output_text.delta", "oversize", megabytes=50)),
    again("stall", "upstream_timeout", at("output_text.delta", "stall")),
    again("failed", "upstream_unavailable", {"type": "fail", "after_deltas": 2}),
    again("error", "upstream_unavailable", {"type": "error", "after_deltas": 2}),
]


@dataclass
class Result:
    """What a scenario came to."""

    run: Any
    text: str
    blocks: list[Block]
    message: Any
    last_seq: int
    rules: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    after: Any = None
    after_text: str = ""
    known: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What the upstream's thread holds at the end."""
    seen: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """What the student sees at the end."""

    @property
    def posts(self) -> int:
        """POSTs that generate, as the sandbox counted them: by fault, and without any."""
        return sum(rule["fired"] for rule in self.rules[:-1]) + self.rules[-1]["matched"]


def told(blocks: list[Block]) -> str:
    """Add up what a reader shows at the end: deltas since the last reset."""
    parts: dict[int, str] = {}
    for block in blocks:
        data = json.loads(block.data)
        if block.event == "message.reset":
            parts = {part: text for part, text in parts.items() if part < data["from_part"]}
        elif block.event == "message.delta":
            parts[data["part"]] = parts.get(data["part"], "") + data["text"]
    return "".join(parts[part] for part in sorted(parts))


async def install(stack: Stack, mark: str, faults: tuple[Action, ...]) -> None:
    """Give the calls with a mark their faults; the last rule never fires, and counts the rest."""
    here = {"text": mark, "method": "POST", "path": POSTS}
    rules = [here | {"id": f"{mark} {n}", "action": action} for n, action in enumerate(faults)]
    counter = here | {"id": f"{mark} count", "nth": 1_000_000, "action": {"type": "html"}}
    await stack.admin("POST", "faults", [*rules, counter])


async def rules_of(stack: Stack, mark: str) -> list[dict[str, Any]]:
    rules = (await stack.admin("GET", "faults"))["rules"]
    return [rule for rule in rules if str(rule["id"]).startswith(f"{mark} ")]


async def told_in_full(client: Client, session: str, run: Any) -> Result:
    """Read a finished run's stream, its message and its session."""
    stream = await client.stream(f"/v1/sessions/{session}/runs/{run['id']}/events?after=0")
    message = None
    if run["output_message_id"] is not None:
        path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
        message = await client.call("GET", path, 200)
    found = await client.call("GET", f"/v1/sessions/{session}", 200)
    text = "".join(part["text"] for part in message["content"]) if message else ""
    return Result(run, text, blocks_of(stream), message, found["last_seq"])


async def play(stack: Stack, scenario: Scenario) -> Result:
    mark = f"mark{SCENARIOS.index(scenario):03d}"
    client = stack.client()
    session = await client.open_session()
    await install(stack, mark, scenario.faults)
    posted = await client.post(session, f"What is 20 + 22? (ref {mark})")
    run = await client.ended(session, posted["run"]["id"], within=WITHIN_S)
    result = await told_in_full(client, session, run)
    result.rules = await rules_of(stack, mark)
    result.after, result.after_text = await client.ask(
        session, "What is 100 + 23?", within=WITHIN_S
    )
    result.known = await items_in(stack, await thread_of(stack, session))
    path = f"/v1/sessions/{session}/messages"
    messages = (await client.call("GET", path, 200, params={"order": "asc"}))["data"]
    told = [(m["role"], "".join(part["text"] for part in m["content"])) for m in messages]
    result.seen = [(role, text) for role, text in told if text]
    return result


@pytest.fixture(scope="module")
async def stack(
    new_database: Callable[[], Awaitable[str]], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("faults")
    patience = {"UPSTREAM_FIRST_BYTE_S": PATIENCE_S, "UPSTREAM_IDLE_S": PATIENCE_S}
    async with running(await new_database(), folder, RUN_TIMEOUT_S="90", **patience) as made:
        yield made


@pytest.fixture(scope="module")
async def results(
    stack: Stack, request: pytest.FixtureRequest
) -> AsyncIterator[dict[str, asyncio.Task[Result]]]:
    """Play the scenarios that were chosen, some at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(scenario: Scenario) -> Result:
        async with room:
            return await play(stack, scenario)

    chosen: set[Scenario] = set()
    for item in request.session.items:
        scenario = getattr(item, "callspec", None) and item.callspec.params.get("scenario")  # type: ignore[attr-defined]
        if isinstance(scenario, Scenario):
            chosen.add(scenario)
    tasks = {
        scenario.name: asyncio.create_task(one(scenario))
        for scenario in SCENARIOS
        if scenario in chosen
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_fault_ends_in_an_answer_or_in_a_stated_reason(
    results: dict[str, asyncio.Task[Result]], scenario: Scenario
) -> None:
    result = await results[scenario.name]
    run = result.run
    assert run["status"] == scenario.status
    assert run["last_error"] is None or run["last_error"]["message"]
    assert (run["last_error"] or {}).get("code") == scenario.code
    assert run["attempts"] in scenario.attempts
    assert result.posts == run["attempts"] + scenario.refused
    assert [rule["fired"] for rule in result.rules] == [1] * len(scenario.faults) + [0]
    if scenario.status == "completed":
        assert "42" in result.text
        assert run["usage"] is None or run["usage"]["total_tokens"] > 0
    if scenario.status == "incomplete":
        assert run["incomplete_details"] == {"reason": "content_filter"}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_what_is_shown_adds_up_and_the_log_has_no_gap(
    results: dict[str, asyncio.Task[Result]], scenario: Scenario
) -> None:
    result = await results[scenario.name]
    seqs = [int(block.id) for block in result.blocks if block.id is not None]
    assert seqs == list(range(1, result.last_seq + 1))
    assert result.blocks[-1].event == "done"
    assert result.blocks[-2].event == f"run.{scenario.status}"
    assert told(result.blocks) == result.text
    ends = [block for block in result.blocks if block.event.startswith("message.")]
    if result.message is not None:
        whole = "completed" if scenario.status == "completed" else "incomplete"
        assert ends[-1].event == f"message.{whole}"
        assert json.loads(ends[-1].data)["message"] == result.message
    created = [block for block in ends if block.event == "message.created"]
    assert len(created) == 1 + (result.message is not None)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_the_next_question_is_answered_as_if_nothing_had_been(
    results: dict[str, asyncio.Task[Result]], scenario: Scenario
) -> None:
    result = await results[scenario.name]
    assert (result.after["status"], result.after["attempts"]) == ("completed", 1)
    assert "123" in result.after_text


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_the_upstream_then_knows_what_the_student_saw(
    results: dict[str, asyncio.Task[Result]], scenario: Scenario
) -> None:
    result = await results[scenario.name]
    assert result.known == result.seen


async def test_no_word_of_the_upstreams_or_the_students_is_in_a_log(
    stack: Stack, results: dict[str, asyncio.Task[Result]]
) -> None:
    await asyncio.gather(*results.values(), return_exceptions=True)
    logs = stack.logs()
    for word in ("20 + 22", "mark0", "sk-canary", "Conversation with id"):
        assert word not in logs
    assert "Traceback" not in logs


async def test_what_was_shown_before_a_failure_stays_and_its_cost_is_told(stack: Stack) -> None:
    client = stack.client()
    session = await client.open_session()
    mark = f"partly{client.user}"
    await install(stack, mark, ({"type": "fail", "after_deltas": 4}, REFUSED))
    posted = await client.post(session, f"What is 20 + 22? (ref {mark})")
    run = await client.ended(session, posted["run"]["id"], within=WITHIN_S)
    result = await told_in_full(client, session, run)
    assert (run["status"], run["attempts"]) == ("failed", 2)
    assert result.text.startswith("The value")
    assert told(result.blocks) == result.text
    assert result.message["status"] == "incomplete"
    resets = [block for block in result.blocks if block.event == "message.reset"]
    assert [json.loads(block.data)["reason"] for block in resets] == ["retried"]
    assert run["usage"]["output_tokens"] == 8


# ---------------------------------------------------------------- threads


async def thread_of(stack: Stack, session: str) -> str:
    found = await stack.fetchval("SELECT upstream_thread_id FROM sessions WHERE id = $1", session)
    assert isinstance(found, str)
    return found


async def threads_of(stack: Stack, session: str) -> int:
    query = "SELECT count(*) FROM upstream_threads WHERE session_id = $1"
    return int(await stack.fetchval(query, session))


async def items_in(stack: Stack, thread: str) -> list[tuple[str, str]]:
    """Return who said what in an upstream thread."""
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/conversations/{thread}/items"
    async with httpx2.AsyncClient(headers={"authorization": "Bearer k"}) as http:
        found = (await http.get(url, params={"order": "asc", "limit": 100})).json()
    return [
        (item["role"], "".join(part["text"] for part in item["content"])) for item in found["data"]
    ]


@pytest.mark.parametrize(
    ("action", "attempts", "turns"),
    [
        ({"type": "reset", "after_work": True}, 1, 4),
        (status(502, after_work=True), 1, 4),
        (at("output_text.delta", "reset"), 2, 4),
        (at("completed", "eof"), 1, 4),
        (at("output_text.delta", "reset", finish=True), 1, 4),
        (status(503), 2, 4),
        # Nothing was heard of it, and nothing is found of it before it ends.
        (at("created", "reset", finish=True), 2, 4),
    ],
    ids=str,
)
async def test_a_repeated_question_stands_once_in_the_thread(
    stack: Stack, action: Action, attempts: int, turns: int
) -> None:
    client = stack.client()
    session = await client.open_session()
    await client.ask(session, "What is 1 + 1?")
    mark = f"turns{client.user}"
    await install(stack, mark, (action,))
    await stack.admin("POST", "pace", {"tokens_per_second": 8, "text": mark})
    run, text = await client.ask(session, f"What is 20 + 22? (ref {mark})", within=WITHIN_S)
    assert (run["status"], run["attempts"]) == ("completed", attempts)
    items = await items_in(stack, await thread_of(stack, session))
    assert len(items) == turns
    assert items[-1] == ("assistant", text)
    assert await threads_of(stack, session) == 1


async def test_an_upstream_that_is_away_after_a_cut_is_asked_until_it_is_back(
    stack: Stack,
) -> None:
    client = stack.client()
    session = await client.open_session()
    await client.ask(session, "What is 1 + 1?")
    mark = f"away{client.user}"
    await install(stack, mark, (at("completed", "reset"),))
    path = "/v1/responses/*"
    away = {"id": f"{mark} asked", "method": "GET", "path": path, "times": 2}
    await stack.admin("POST", "faults", away | {"action": status(503)})
    run, text = await client.ask(session, f"What is 20 + 22? (ref {mark})", within=WITHIN_S)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert "42" in text
    rules = await rules_of(stack, mark)
    assert [rule["fired"] for rule in rules] == [1, 0, 2]


async def test_a_thread_that_somebody_holds_is_waited_for(stack: Stack) -> None:
    client = stack.client()
    session = await client.open_session()
    await client.ask(session, "What is 1 + 1?")
    thread = await thread_of(stack, session)
    mark, holder = f"held{client.user}", f"holder{client.user}"
    await install(stack, mark, ())
    url = f"http://127.0.0.1:{stack.sandbox_port}/v1/responses"
    body = {"model": "m", "stream": True, "conversation": thread}
    await stack.admin("POST", "pace", {"tokens_per_second": 0.2, "text": holder})
    async with (
        httpx2.AsyncClient(headers={"authorization": "Bearer k"}, timeout=60) as http,
        http.stream("POST", url, json=body | {"input": f"What is 3 + 4? {holder}"}) as held,
    ):
        assert held.status_code == 200
        posted = await client.post(session, f"What is 20 + 22? (ref {mark})")

        async def was_refused_twice() -> bool:
            return bool((await rules_of(stack, mark))[-1]["matched"] >= 2)

        await until(was_refused_twice, within=60)
        waiting = await client.run(session, posted["run"]["id"])
        assert (waiting["status"], waiting["attempts"]) == ("in_progress", 1)
    run = await client.ended(session, posted["run"]["id"], within=WITHIN_S)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert await thread_of(stack, session) == thread
    assert await threads_of(stack, session) == 1
    assert len(await items_in(stack, thread)) == 4


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port of loopback on which connecting takes for ever: nobody picks up, and all wait."""
    with ExitStack() as sockets:
        deaf = sockets.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(deaf.getsockname())
        yield deaf.getsockname()[1]


async def test_an_upstream_that_takes_no_connection_times_out_and_is_asked_again_later(
    new_database: Callable[[], Awaitable[str]], tmp_path: Path
) -> None:
    stack = Stack(await new_database(), tmp_path, UPSTREAM_FIRST_BYTE_S="1")
    try:
        with deaf_port() as stack.sandbox_port:
            await stack.start_api()
            await stack.start_worker()
            client = stack.client()
            session = await client.open_session()
            run, _ = await client.ask(session, "What is 20 + 22?", within=WITHIN_S)
            assert (run["status"], run["last_error"]["code"]) == ("failed", "upstream_timeout")
            assert run["attempts"] == 3
        await stack.start_sandbox()
        run, text = await client.ask(session, "What is 100 + 23?", within=WITHIN_S)
        assert (run["status"], run["attempts"]) == ("completed", 1)
        assert "123" in text
        assert "Traceback" not in stack.logs()
    finally:
        await stack.close()


# ---------------------------------------------------------------- deadlines


async def test_a_run_whose_time_is_up_expires(
    new_database: Callable[[], Awaitable[str]], tmp_path: Path
) -> None:
    async with running(await new_database(), tmp_path, RUN_TIMEOUT_S="3") as hasty:
        client = hasty.client()

        async def overdue(mark: str, *actions: Action) -> Result:
            session = await client.open_session()
            await install(hasty, mark, actions)
            posted = await client.post(session, f"What is 20 + 22? (ref {mark})")
            run = await client.ended(session, posted["run"]["id"], within=WITHIN_S)
            result = await told_in_full(client, session, run)
            result.after, result.after_text = await client.ask(session, "What is 100 + 23?")
            return result

        patient, *results = await asyncio.gather(
            # The second wait would end after the run's time: it is not begun.
            overdue("patient", status(429, retry_after=2), status(429, retry_after=2)),
            overdue("stuck", {"type": "stuck"}),
            overdue("dripping", at("created", "drip", interval_s=0.02)),
            overdue("half", {**at("output_text.delta", "stall"), "at": {"index": 8}}),
            # The backoff leaves no time for a fifth.
            overdue("busy", *(status(400, code="conversation_locked"),) * 4),
        )
        assert (patient.run["status"], patient.run["attempts"]) == ("failed", 2)
        assert patient.run["last_error"]["code"] == "upstream_rate_limited"
        for result in results:
            assert result.run["status"] == "expired"
            assert result.run["last_error"]["code"] == "run_timeout"
            assert result.run["attempts"] == 1
            assert told(result.blocks) == result.text
            assert result.blocks[-2].event == "run.expired"
            assert (result.after["status"], result.after["attempts"]) == ("completed", 1)
            assert "123" in result.after_text
        assert results[2].text
        # Whoever holds a thread, it is waited for and never left for another.
        assert await threads_of(hasty, results[3].run["session_id"]) == 1

        async def is_over() -> bool:
            return bool((await hasty.admin("GET", "stats"))["running"] == 0)

        await until(is_over)


# ---------------------------------------------------------------- an upstream that forgets


@pytest.mark.parametrize("how", ["reset", "restart"])
async def test_an_upstream_that_forgot_everything_is_told_the_conversation_again(
    stack: Stack, results: dict[str, asyncio.Task[Result]], how: str
) -> None:
    await asyncio.gather(*results.values(), return_exceptions=True)
    client = stack.client()
    session = await client.open_session()
    run, first = await client.ask(session, FIRST)
    assert run["status"] == "completed"
    if how == "reset":
        await stack.admin("POST", "reset")
    else:
        assert stack.sandbox is not None
        stack.sandbox.kill()
        await stack.start_sandbox()
    run, second = await client.ask(session, SECOND, within=WITHIN_S)
    assert (run["status"], run["attempts"]) == ("completed", 1)
    assert "241" in second
    assert await threads_of(stack, session) == 2
    items = await items_in(stack, await thread_of(stack, session))
    assert items == [
        ("user", FIRST),
        ("assistant", first),
        ("user", SECOND),
        ("assistant", second),
    ]


async def test_an_upstream_that_dies_in_an_answer_and_comes_back_empty_answers_in_context(
    stack: Stack, results: dict[str, asyncio.Task[Result]]
) -> None:
    await asyncio.gather(*results.values(), return_exceptions=True)
    client = stack.client()
    session = await client.open_session()
    await client.ask(session, FIRST)
    await stack.admin("POST", "pace", {"tokens_per_second": 2, "text": "자세히"})
    posted = await client.post(session, SECOND)

    async def has_begun() -> bool:
        path = f"/v1/sessions/{session}/messages"
        messages = await client.call("GET", path, 200, params={"run_id": posted["run"]["id"]})
        return any(message["role"] == "assistant" for message in messages["data"])

    await until(has_begun, within=60)
    assert stack.sandbox is not None
    stack.sandbox.kill()
    await stack.start_sandbox()
    run = await client.ended(session, posted["run"]["id"], within=WITHIN_S)
    assert (run["status"], run["attempts"]) == ("completed", 2)
    result = await told_in_full(client, session, run)
    assert "241" in result.text
    assert told(result.blocks) == result.text
    assert len([block for block in result.blocks if block.event == "message.reset"]) == 1
