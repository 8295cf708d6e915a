"""Run streams: the wire's events in the wire's order, followed by the SDK's handler, resumed."""

import json
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx2
import openai
import pytest
from openai import AsyncAssistantEventHandler, AsyncOpenAI
from openai.types.beta import AssistantStreamEvent
from openai.types.beta.threads import Message, Run, Text, TextDelta
from openai.types.beta.threads.runs import RunStep

from tests.conftest import NewDatabase
from tests.integration.compat.conftest import EQUATION, sdk_at, text_of, tutor
from tests.stack import Block, Stack, blocks_of, running, token, until

STALL: Final[dict[str, Any]] = {
    "type": "stall",
    "at": {"event": "response.output_text.delta", "nth": 3},
    "seconds": 60,
}
BEGUN: Final = ["run.created", "run.queued", "run.in_progress"]
ANSWERING: Final = ["run.step.created", "run.step.in_progress", "message.created"]
SAYING: Final = ["message.in_progress", "message.delta"]
PLAIN: Final = [
    *BEGUN, *ANSWERING, *SAYING,
    "message.completed", "run.step.completed", "run.completed", "done",
]  # fmt: skip


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A tutor who writes slowly enough to be cut, and gives a run twenty seconds."""
    folder: Path = tmp_path_factory.mktemp("streams")
    async with running(
        await new_database(), folder, apis=2, pace=150, RUN_TIMEOUT_S="20"
    ) as found:
        yield found


class Student:
    """A user with a thread and a tutor, by the SDK and by hand."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.name = f"user-{uuid.uuid4().hex[:12]}"
        self.word = f"word{uuid.uuid4().hex[:8]}"
        self.sdk = sdk_at(stack.api_urls[0], self.name)
        self.http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {token(self.name)}"}, timeout=60
        )
        self.thread = self.tutor = ""

    async def arrive(self, question: str = f"Please solve {EQUATION}", **fields: Any) -> None:
        self.tutor = await tutor(self.sdk, instructions="Be kind.", **fields)
        question += f", says {self.word}"
        thread = await self.sdk.beta.threads.create(
            messages=[{"role": "user", "content": question}]
        )
        self.thread = thread.id

    async def fault(self, **action: Any) -> None:
        rule = {"path": "/v1/responses", "text": self.word, "times": 1, "action": action}
        await self.stack.admin("POST", "faults", rule)

    def url(self, path: str, at: int = 0) -> str:
        return f"{self.stack.api_urls[at]}/openai/v1/threads/{self.thread}/{path}"

    async def read(self, method: str, url: str, **arguments: Any) -> str:
        async with self.http.stream(method, url, **arguments) as response:
            await response.aread()
            assert response.status_code == 200, response.text
            assert response.headers["content-type"].startswith("text/event-stream")
            return response.text

    async def streamed(self, **fields: Any) -> list[Block]:
        body = {"assistant_id": self.tutor, "stream": True, **fields}
        return blocks_of(await self.read("POST", self.url("runs"), json=body))

    async def close(self) -> None:
        await self.http.aclose()
        await self.sdk.close()


@pytest.fixture
async def student(stack: Stack) -> AsyncIterator[Student]:
    found = Student(stack)
    await found.arrive()
    yield found
    await found.close()


def names(blocks: list[Block]) -> list[str]:
    """The events' names, deltas that follow each other told once."""
    found: list[str] = []
    for block in blocks:
        name = block.event.removeprefix("thread.")
        if found[-1:] != [name]:
            found.append(name)
    return found


def data_of(blocks: list[Block], event: str) -> Any:
    (found,) = [block for block in blocks if block.event == event]
    return json.loads(found.data)


def told(blocks: list[Block]) -> list[tuple[str | None, str, str]]:
    """All but when to come back, which is drawn anew each time."""
    return [(block.id, block.event, block.data) for block in blocks]


def shown(blocks: list[Block]) -> str:
    deltas = [json.loads(b.data) for b in blocks if b.event == "thread.message.delta"]
    return "".join(d["delta"]["content"][0]["text"]["value"] for d in deltas)


async def test_a_plain_runs_events_are_the_wires_in_its_order(student: Student) -> None:
    blocks = await student.streamed()
    assert names(blocks) == PLAIN
    assert blocks[-1].data == "[DONE]"
    run = data_of(blocks, "thread.run.completed")
    created = data_of(blocks, "thread.run.created")
    assert (created["id"], created["status"]) == (run["id"], "queued")
    polled = await student.sdk.beta.threads.runs.retrieve(run["id"], thread_id=student.thread)
    assert Run.model_validate(run) == polled
    step = data_of(blocks, "thread.run.step.completed")
    found = await student.sdk.beta.threads.runs.steps.retrieve(
        step["id"], thread_id=student.thread, run_id=run["id"]
    )
    assert RunStep.model_validate(step) == found
    message = data_of(blocks, "thread.message.completed")
    kept = await student.sdk.beta.threads.messages.retrieve(
        message["id"], thread_id=student.thread
    )
    assert Message.model_validate(message) == kept
    assert shown(blocks) == message["content"][0]["text"]["value"]
    assert "241" in shown(blocks)


class Handler(AsyncAssistantEventHandler):
    """What an application written for the wire overrides."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.texts: list[str] = []
        self.steps: list[str] = []
        self.step_ids: list[str] = []
        self.said: list[Message] = []
        self.snapshot = ""

    async def on_event(self, event: AssistantStreamEvent) -> None:
        self.events.append(event.event)

    async def on_text_delta(self, delta: TextDelta, snapshot: Text) -> None:
        self.texts.append(delta.value or "")
        self.snapshot = snapshot.value

    async def on_run_step_done(self, run_step: RunStep) -> None:
        self.steps.append(run_step.status)
        self.step_ids.append(run_step.id)

    async def on_message_done(self, message: Message) -> None:
        self.said.append(message)


async def test_the_sdks_event_handler_follows_a_run(student: Student) -> None:
    handler = Handler()
    async with student.sdk.beta.threads.runs.stream(
        thread_id=student.thread, assistant_id=student.tutor, event_handler=handler
    ) as stream:
        await stream.until_done()
    run = await handler.get_final_run()
    assert run.status == "completed"
    answer = await text_of(student.sdk, student.thread, run.id)
    assert "".join(handler.texts) == handler.snapshot == answer
    assert handler.steps == ["completed"]
    (said,) = handler.said
    assert said == (await handler.get_final_messages())[0]
    assert [step.id for step in await handler.get_final_run_steps()] == handler.step_ids


async def test_a_repeated_attempt_leaves_the_handler_with_the_answer_that_counts(
    student: Student,
) -> None:
    await student.fault(type="reset", at={"event": "response.output_text.delta", "nth": 6})
    handler = Handler()
    async with student.sdk.beta.threads.runs.stream(
        thread_id=student.thread, assistant_id=student.tutor, event_handler=handler
    ) as stream:
        await stream.until_done()
    run = await handler.get_final_run()
    assert run.status == "completed"
    assert handler.events.count("thread.message.created") == 2
    assert handler.snapshot == await text_of(student.sdk, student.thread, run.id)
    assert len("".join(handler.texts)) > len(handler.snapshot)


async def test_a_failed_runs_events(student: Student) -> None:
    await student.fault(type="fail", code="invalid_prompt", after_deltas=3)
    blocks = await student.streamed()
    assert names(blocks) == [
        *BEGUN, *ANSWERING, *SAYING,
        "message.incomplete", "run.step.failed", "run.failed", "done",
    ]  # fmt: skip
    run = data_of(blocks, "thread.run.failed")
    assert run["last_error"]["code"] == "invalid_prompt"
    assert run["failed_at"]
    message = data_of(blocks, "thread.message.incomplete")
    assert message["incomplete_details"] == {"reason": "run_failed"}
    assert message["incomplete_at"]
    kept = await student.sdk.beta.threads.messages.retrieve(
        message["id"], thread_id=student.thread
    )
    assert Message.model_validate(message) == kept
    step = data_of(blocks, "thread.run.step.failed")
    assert step["last_error"]["code"] == "server_error"


async def test_a_run_that_failed_before_it_said_anything(student: Student) -> None:
    await student.fault(type="status", status=400)
    blocks = await student.streamed()
    assert names(blocks) == [*BEGUN, "run.failed", "done"]


async def test_a_filtered_runs_events(student: Student) -> None:
    await student.fault(type="incomplete", after_deltas=3)
    blocks = await student.streamed()
    assert names(blocks) == [
        *BEGUN, *ANSWERING, *SAYING,
        "message.incomplete", "run.step.completed", "run.incomplete", "done",
    ]  # fmt: skip
    message = data_of(blocks, "thread.message.incomplete")
    assert message["incomplete_details"] == {"reason": "content_filter"}


async def test_an_expired_runs_events(student: Student) -> None:
    await student.fault(**STALL)
    blocks = await student.streamed()
    assert names(blocks) == [
        *BEGUN, *ANSWERING, *SAYING,
        "message.incomplete", "run.step.expired", "run.expired", "done",
    ]  # fmt: skip
    message = data_of(blocks, "thread.message.incomplete")
    assert message["incomplete_details"] == {"reason": "run_expired"}


async def test_a_cancelled_runs_events(student: Student) -> None:
    await student.fault(**STALL)
    sdk, seen, run_id = student.sdk, list[str](), ""
    stream = await sdk.beta.threads.runs.create(
        student.thread, assistant_id=student.tutor, stream=True
    )
    async for event in stream:
        name = event.event.removeprefix("thread.")
        # What was on its way when the run was cancelled may still be told.
        if seen[-1:] != [name] and not (name == "message.delta" and run_id):
            seen.append(name)
        if name == "message.delta" and not run_id:
            (run,) = (await sdk.beta.threads.runs.list(student.thread)).data
            run_id = run.id
            asked = await sdk.beta.threads.runs.cancel(run_id, thread_id=student.thread)
            assert asked.status == "cancelling"
    assert seen == [
        *BEGUN, *ANSWERING, *SAYING,
        "run.cancelling", "message.incomplete", "run.step.cancelled", "run.cancelled",
    ]  # fmt: skip
    ended = await sdk.beta.threads.runs.retrieve(run_id, thread_id=student.thread)
    assert ended.status == "cancelled"
    assert ended.cancelled_at is not None
    (message, _) = (await sdk.beta.threads.messages.list(student.thread)).data
    assert message.incomplete_details is not None
    assert message.incomplete_details.reason == "run_cancelled"
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.beta.threads.runs.cancel(run_id, thread_id=student.thread)
    assert "Cannot cancel run with status 'cancelled'." in refused.value.message


async def test_a_reader_that_comes_back_at_any_event_misses_none_and_sees_none_twice(
    student: Student,
) -> None:
    blocks = await student.streamed()
    run_id = data_of(blocks, "thread.run.completed")["id"]
    url = student.url(f"runs/{run_id}/events", at=1)
    whole = blocks_of(await student.read("GET", url))
    assert told(whole) == told(blocks)
    for place, block in enumerate(blocks[:-1]):
        assert block.id is not None
        headers = {"Last-Event-ID": block.id}
        rest = blocks_of(await student.read("GET", url, headers=headers))
        assert told(rest) == told(blocks[place + 1 :])


async def test_a_reader_may_come_back_while_the_run_goes_on(student: Student) -> None:
    body = {"assistant_id": student.tutor, "stream": True}
    read = ""
    async with student.http.stream("POST", student.url("runs"), json=body) as response:
        async for text in response.aiter_text():
            read += text
            if "thread.message.delta" in read:
                break
    seen = blocks_of(read[: read.rindex("\n\n") + 2])
    run_id = json.loads(seen[0].data)["id"]
    url = student.url(f"runs/{run_id}/events", at=1)
    rest = blocks_of(await student.read("GET", url, headers={"Last-Event-ID": seen[-1].id or ""}))
    whole = blocks_of(await student.read("GET", url))
    assert told([*seen, *rest]) == told(whole)
    assert names(whole) == PLAIN


async def test_a_stream_that_a_deploy_cuts_off_says_so_and_goes_on_elsewhere(
    stack: Stack, student: Student
) -> None:
    slow = {"tokens_per_second": 30, "text": student.word}
    await stack.admin("POST", "pace", slow)
    process = await stack.start_api()
    going = sdk_at(stack.api_urls.pop(), student.name)
    seen: list[str] = []
    stream = await going.beta.threads.runs.create(
        student.thread, assistant_id=student.tutor, stream=True
    )

    async def read() -> None:
        async for event in stream:
            if event.event == "thread.message.delta" and event.event not in seen:
                process.signal(signal.SIGTERM)
            seen.append(event.event)

    with pytest.raises(openai.APIError, match="the run goes on"):
        await read()
    await going.close()
    assert "thread.run.completed" not in seen
    (run,) = (await student.sdk.beta.threads.runs.list(student.thread)).data
    whole = blocks_of(await student.read("GET", student.url(f"runs/{run.id}/events")))
    assert names(whole) == PLAIN
    assert [block.event for block in whole][: len(seen)] == seen


async def test_a_cursor_that_is_none_of_the_streams_is_refused(student: Student) -> None:
    run_id = data_of(await student.streamed(), "thread.run.completed")["id"]
    response = await student.http.get(
        student.url(f"runs/{run_id}/events"), headers={"Last-Event-ID": "12"}
    )
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_thread_and_its_run_are_streamed_from_the_threads_creation(
    student: Student,
) -> None:
    url = f"{student.stack.api_urls[0]}/openai/v1/threads/runs"
    body: dict[str, Any] = {
        "assistant_id": student.tutor,
        "stream": True,
        "thread": {
            "messages": [{"role": "user", "content": f"Please solve {EQUATION}"}],
            "metadata": {"a": "b"},
        },
    }
    blocks = blocks_of(await student.read("POST", url, json=body))
    assert names(blocks) == ["created", *PLAIN]
    thread = data_of(blocks, "thread.created")
    assert thread["metadata"] == {"a": "b"}
    assert data_of(blocks, "thread.run.completed")["thread_id"] == thread["id"]


async def test_the_sdk_creates_and_runs_both_ways(student: Student) -> None:
    sdk: AsyncOpenAI = student.sdk
    thread: Any = {"messages": [{"role": "user", "content": f"Please solve {EQUATION}"}]}
    run = await sdk.beta.threads.create_and_run_poll(assistant_id=student.tutor, thread=thread)
    assert run.status == "completed"
    assert "241" in await text_of(sdk, run.thread_id, run.id)
    handler = Handler()
    async with sdk.beta.threads.create_and_run_stream(
        assistant_id=student.tutor, thread=thread, event_handler=handler
    ) as stream:
        await stream.until_done()
    assert handler.events[0] == "thread.created"
    assert (await handler.get_final_run()).status == "completed"
    assert "241" in handler.snapshot


async def test_a_message_posted_on_the_other_face_is_streamed_on_this_one(
    student: Student,
) -> None:
    client = student.stack.client(user=student.name)
    posted = await client.post(student.thread, "2 + 2")
    run_id = posted["run"]["id"]
    blocks = blocks_of(await student.read("GET", student.url(f"runs/{run_id}/events")))
    assert names(blocks) == PLAIN
    assert data_of(blocks, "thread.run.completed")["assistant_id"] == "asst_default"

    async def is_ended() -> bool:
        return bool((await client.run(student.thread, run_id))["status"] == "completed")

    await until(is_ended)
