"""Functions over the face, with the real SDK: polls, streams, its event handler, its helpers."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncAssistantEventHandler, AsyncOpenAI
from openai.types.beta.threads import Run
from openai.types.beta.threads.run_submit_tool_outputs_params import ToolOutput
from openai.types.beta.threads.runs import RunStep, ToolCall, ToolCallDelta

from tests.integration.compat.conftest import tutor
from tests.stack import Stack, blocks_of, until

PLOT: Any = {
    "type": "function",
    "function": {
        "name": "plot",
        "description": "Draws a graph.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
    },
}
CALCULATE: Any = {"type": "function", "function": {"name": "calculate"}}
BOTH = "Announce: please calculate `2(3 + 4)^2 / 7` and plot `x + 1`"


async def asked(sdk: AsyncOpenAI, question: str, *tools: Any, **fields: Any) -> tuple[str, str]:
    """Return a thread with a question in it, and an assistant with tools."""
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": question}])
    return thread.id, await tutor(sdk, tools=[*tools], **fields)


async def waiting(sdk: AsyncOpenAI, question: str, *tools: Any, **fields: Any) -> Run:
    thread_id, assistant_id = await asked(sdk, question, *tools)
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread_id, assistant_id=assistant_id, poll_interval_ms=50, **fields
    )
    assert run.status == "requires_action", run
    return run


def outputs(run: Run, output: str = "A straight line.") -> list[ToolOutput]:
    assert run.required_action is not None
    return [
        {"tool_call_id": call.id, "output": output}
        for call in run.required_action.submit_tool_outputs.tool_calls
    ]


async def texts(sdk: AsyncOpenAI, run: Run) -> list[str]:
    (message,) = (await sdk.beta.threads.messages.list(run.thread_id, run_id=run.id)).data
    return [part.text.value for part in message.content if part.type == "text"]


async def test_a_tool_loop_with_polls(sdk: AsyncOpenAI) -> None:
    run = await waiting(sdk, BOTH, CALCULATE, PLOT)
    assert run.required_action is not None
    (call,) = run.required_action.submit_tool_outputs.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "plot",
        {"expression": "x + 1"},
    )
    steps = await sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id, order="asc")
    assert [(step.type, step.status) for step in steps.data] == [
        ("message_creation", "in_progress"),
        ("tool_calls", "in_progress"),
    ]
    ended = await sdk.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=run.thread_id, tool_outputs=outputs(run), poll_interval_ms=50
    )
    assert (ended.status, ended.required_action) == ("completed", None)
    announced, answer = await texts(sdk, ended)
    assert "`calculate`, `plot`" in announced
    assert '"value":"14"' in answer
    assert "A straight line." in answer
    steps = await sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id, order="asc")
    written, called = steps.data
    assert (called.status, called.completed_at is not None) == ("completed", True)
    assert called.step_details.type == "tool_calls"
    functions = [c.function for c in called.step_details.tool_calls if c.type == "function"]
    assert [(f.name, f.output) for f in functions] == [
        ("calculate", '{"value":"14","decimal":14.0,"latex":"14"}'),
        ("plot", "A straight line."),
    ]
    one = await sdk.beta.threads.runs.steps.retrieve(
        called.id, thread_id=run.thread_id, run_id=run.id
    )
    assert one == called
    for limits, found in (
        ({"limit": 1}, [called.id]),
        ({"limit": 1, "after": called.id}, [written.id]),
        ({"order": "asc", "before": called.id}, [written.id]),
    ):
        page = await sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id, **limits)
        assert [step.id for step in page.data] == found
    everything = sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id, limit=1)
    assert [step.id async for step in everything] == [called.id, written.id]


class Handler(AsyncAssistantEventHandler):
    """Writes down what the SDK makes of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.text = ""
        self.begun: list[ToolCall] = []
        self.done: list[ToolCall] = []
        self.arguments = ""
        self.finished: list[RunStep] = []

    async def on_run_step_done(self, run_step: RunStep) -> None:
        self.finished.append(run_step)

    async def on_event(self, event: Any) -> None:
        if not self.events or self.events[-1] != event.event:
            self.events.append(event.event)

    async def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.text += delta.value or ""
        assert snapshot.value.endswith(delta.value or "")

    async def on_tool_call_created(self, tool_call: ToolCall) -> None:
        self.begun.append(tool_call)

    async def on_tool_call_delta(self, delta: ToolCallDelta, snapshot: ToolCall) -> None:
        assert snapshot.type == "function"
        if delta.type == "function" and delta.function is not None:
            self.arguments += delta.function.arguments or ""

    async def on_tool_call_done(self, tool_call: ToolCall) -> None:
        self.done.append(tool_call)


async def test_a_tool_loop_with_the_sdk_s_event_handler(sdk: AsyncOpenAI) -> None:
    thread_id, assistant_id = await asked(sdk, BOTH, CALCULATE, PLOT)
    first = Handler()
    async with sdk.beta.threads.runs.stream(
        thread_id=thread_id, assistant_id=assistant_id, event_handler=first
    ) as stream:
        await stream.until_done()
    assert [event.removeprefix("thread.") for event in first.events] == [
        "run.created", "run.queued", "run.in_progress", "run.step.created",
        "run.step.in_progress", "message.created", "message.in_progress", "message.delta",
        "run.step.created", "run.step.in_progress", "run.step.delta", "run.requires_action",
    ]  # fmt: skip
    run = first.current_run
    assert run is not None
    assert [call.function.name for call in first.begun if call.type == "function"] == [
        "calculate",
        "plot",
    ]
    assert first.arguments == '{"expression": "2(3 + 4)^2 / 7"}{"expression": "x + 1"}'
    assert "`calculate`, `plot`" in first.text

    second = Handler()
    async with sdk.beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=thread_id, tool_outputs=outputs(run), event_handler=second
    ) as stream:
        await stream.until_done()
    assert [event.removeprefix("thread.") for event in second.events] == [
        "run.step.completed", "run.queued", "run.in_progress", "message.created",
        "message.in_progress", "message.delta", "message.completed", "run.step.completed",
        "run.completed",
    ]  # fmt: skip
    assert "A straight line." in second.text
    (message,) = await second.get_final_messages()
    values = [part.text.value for part in message.content if part.type == "text"]
    assert values == [first.text, second.text]
    assert [step.type for step in second.finished] == ["tool_calls", "message_creation"]
    called = second.finished[0].step_details
    assert called.type == "tool_calls"
    assert [call.id for call in called.tool_calls] == [call.id for call in first.begun]


async def test_a_function_step_that_the_server_answers_is_told_in_one_stream(
    sdk: AsyncOpenAI,
) -> None:
    thread_id, assistant_id = await asked(sdk, "calculate `1/3 + 1/6`", CALCULATE)
    handler = Handler()
    async with sdk.beta.threads.runs.stream(
        thread_id=thread_id, assistant_id=assistant_id, event_handler=handler
    ) as stream:
        await stream.until_done()
    assert [event.removeprefix("thread.") for event in handler.events] == [
        "run.created", "run.queued", "run.in_progress", "run.step.created",
        "run.step.in_progress", "run.step.delta", "run.step.completed", "run.step.created",
        "run.step.in_progress", "message.created", "message.in_progress", "message.delta",
        "message.completed", "run.step.completed", "run.completed",
    ]  # fmt: skip
    assert '"value":"1/2"' in handler.text
    # The SDK says so at the end of the step, and of the run.
    assert {call.id for call in handler.done} == {handler.begun[0].id}
    called = handler.finished[0].step_details
    assert called.type == "tool_calls"
    (call,) = called.tool_calls
    assert call.type == "function"
    assert "1/2" in (call.function.output or "")


async def test_the_second_stream_goes_on_after_any_of_its_events(
    shared: Stack, sdk: AsyncOpenAI
) -> None:
    run = await waiting(sdk, BOTH, CALCULATE, PLOT)
    client = shared.client()
    client.http.headers["Authorization"] = f"Bearer {sdk.api_key}"
    path = f"/openai/v1/threads/{run.thread_id}/runs/{run.id}"
    body = {"tool_outputs": outputs(run), "stream": True}
    text = await client.stream(f"{path}/submit_tool_outputs", method="POST", json=body)
    whole = blocks_of(text)
    assert whole[0].event == "thread.run.step.completed"
    assert (whole[-1].event, whole[-1].data) == ("done", "[DONE]")
    deltas = [place for place, b in enumerate(whole) if b.event == "thread.message.delta"]
    for place in (0, 1, 2, deltas[0], deltas[-1]):
        headers = {"Last-Event-ID": str(whole[place].id)}
        rest = blocks_of(await client.stream(f"{path}/events", headers=headers))
        wanted = whole[place + 1 :]
        if place < deltas[0]:
            # Its message was opened for whoever had not read the first stream.
            wanted = [b for b in wanted if b.event not in REOPENED]
        assert [(b.id, b.event, b.data) for b in rest] == [(b.id, b.event, b.data) for b in wanted]


REOPENED = {"thread.message.created", "thread.message.in_progress"}


async def test_outputs_are_refused_in_the_wire_s_words(sdk: AsyncOpenAI, new_sdk: Any) -> None:
    run = await waiting(sdk, "plot and look_up `x`", PLOT, {
        "type": "function", "function": {"name": "look_up"}
    })  # fmt: skip
    submit = sdk.beta.threads.runs.submit_tool_outputs
    given = outputs(run)
    ids = [str(output["tool_call_id"]) for output in given]
    wrong: list[list[ToolOutput]] = [
        [],
        given[:1],
        [*given, given[0]],
        [given[0], {"tool_call_id": "call_canary", "output": "x"}],
    ]
    for each in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            await submit(run.id, thread_id=run.thread_id, tool_outputs=each)
        assert f"Expected tool outputs for call_ids {ids}, got " in refused.value.message
        assert "call_canary" not in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        await submit(
            run.id,
            thread_id=run.thread_id,
            tool_outputs=[given[0], {**given[1], "output": "x" * 200_001}],
        )
    assert refused.value.code == "string_above_max_length"
    with pytest.raises(openai.BadRequestError) as refused:
        await submit(run.id, thread_id=run.thread_id, tool_outputs=[{"output": "x"}])
    assert refused.value.code == "missing_required_parameter"
    with pytest.raises(openai.NotFoundError):
        await new_sdk().beta.threads.runs.submit_tool_outputs(
            run.id, thread_id=run.thread_id, tool_outputs=given
        )
    # An output may be left out: the function returned nothing.
    await submit(run.id, thread_id=run.thread_id, tool_outputs=[
        {"tool_call_id": ids[0]}, given[1]
    ])  # fmt: skip
    ended = await sdk.beta.threads.runs.poll(run.id, run.thread_id, poll_interval_ms=50)
    assert ended.status == "completed"
    with pytest.raises(openai.BadRequestError) as refused:
        await submit(run.id, thread_id=run.thread_id, tool_outputs=given)
    words = 'Runs in status "completed" do not accept tool outputs.'
    assert words in refused.value.message


async def test_a_thread_whose_run_waits_takes_nothing_else_until_it_is_cancelled(
    sdk: AsyncOpenAI,
) -> None:
    run = await waiting(sdk, "plot `x`", PLOT)
    with pytest.raises(openai.BadRequestError, match=f"while a run {run.id} is active"):
        await sdk.beta.threads.messages.create(run.thread_id, role="user", content="And now?")
    with pytest.raises(openai.BadRequestError, match="already has an active run"):
        await sdk.beta.threads.runs.create(run.thread_id, assistant_id=run.assistant_id)
    cancelled = await sdk.beta.threads.runs.cancel(run.id, thread_id=run.thread_id)
    assert cancelled.status == "cancelled"
    steps = (await sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id)).data
    assert [(step.type, step.status) for step in steps] == [("tool_calls", "cancelled")]
    assert steps[0].cancelled_at is not None
    await sdk.beta.threads.messages.create(run.thread_id, role="user", content="What is 20 + 22?")
    after = await sdk.beta.threads.runs.create_and_poll(
        thread_id=run.thread_id, assistant_id=run.assistant_id, poll_interval_ms=50
    )
    assert "42" in "".join(await texts(sdk, after))


async def test_a_run_whose_tools_are_never_called_expires_and_the_thread_goes_on(
    shared: Stack, sdk: AsyncOpenAI
) -> None:
    run = await waiting(sdk, "plot `x`", PLOT)
    # Its ten minutes pass.
    query = "UPDATE runs SET expires_at = now() WHERE id = $1 RETURNING id"
    assert await shared.fetchval(query, run.id) == run.id

    async def is_over() -> Run | None:
        found = await sdk.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
        return None if found.status == "requires_action" else found

    expired: Run = await until(is_over, within=60)
    assert (expired.status, expired.required_action) == ("expired", None)
    steps = (await sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id)).data
    assert [(step.type, step.status) for step in steps] == [("tool_calls", "expired")]
    await sdk.beta.threads.messages.create(run.thread_id, role="user", content="What is 20 + 22?")
    after = await sdk.beta.threads.runs.create_and_poll(
        thread_id=run.thread_id, assistant_id=run.assistant_id, poll_interval_ms=50
    )
    assert "42" in "".join(await texts(sdk, after))


CHOICES: list[tuple[Any, list[str]]] = [
    ({"tool_choice": "none"}, []),
    ({"tool_choice": "required"}, ["plot", "look_up"]),
    ({"tool_choice": {"type": "function", "function": {"name": "look_up"}}}, ["look_up"]),
    ({"parallel_tool_calls": False}, ["plot"]),
]


@pytest.mark.parametrize(("fields", "called"), CHOICES, ids=json.dumps)
async def test_a_run_may_say_what_is_called(
    sdk: AsyncOpenAI, fields: dict[str, Any], called: list[str]
) -> None:
    look_up: Any = {"type": "function", "function": {"name": "look_up"}}
    thread_id, assistant_id = await asked(sdk, "plot and look_up `x`", PLOT, look_up)
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread_id, assistant_id=assistant_id, poll_interval_ms=50, **fields
    )
    action = run.required_action
    calls = action.submit_tool_outputs.tool_calls if action else []
    assert [call.function.name for call in calls] == called
    for name, value in fields.items():
        shown = getattr(run, name)
        assert (shown if isinstance(value, bool | str) else shown.to_dict()) == value
    if calls:
        # Forced to call, it is not forced again.
        ended = await sdk.beta.threads.runs.submit_tool_outputs_and_poll(
            run_id=run.id, thread_id=thread_id, tool_outputs=outputs(run), poll_interval_ms=50
        )
        assert ended.status == "completed"


BAD_TOOLS: dict[str, tuple[Any, str]] = {
    "a name of no kind": ([{"type": "function", "function": {"name": "no good"}}],
                          "tools[0].function.name"),
    "no name": ([{"type": "function", "function": {}}], "tools[0].function.name"),
    "no schema of an object": (
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}],
        "tools[0].function.parameters",
    ),
    "too many": ([PLOT] * 129, "tools"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TOOLS)
async def test_tools_are_looked_at(sdk: AsyncOpenAI, name: str) -> None:
    tools, param = BAD_TOOLS[name]
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.beta.assistants.create(model="m", tools=tools)
    assert refused.value.param == param


async def test_a_run_takes_twenty_tools(sdk: AsyncOpenAI) -> None:
    thread_id, assistant_id = await asked(sdk, "What is 1 + 1?")
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.beta.threads.runs.create(thread_id, assistant_id=assistant_id, tools=[PLOT] * 21)
    assert refused.value.param == "tools"
