"""Runs that are varied, refused, in each other's way; errors by class, in the wire's words."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.conftest import NewDatabase
from tests.integration.compat.conftest import NewSdk, sdk_at, tutor
from tests.stack import Stack, running, token, until

FUNCTION: Any = {"type": "function", "function": {"name": "plot"}}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
}


@pytest.fixture
async def thread_id(sdk: AsyncOpenAI) -> str:
    thread = await sdk.beta.threads.create(
        messages=[{"role": "user", "content": "What is 2 + 2?"}]
    )
    return thread.id


async def asked_upstream(shared: Stack, run_id: str) -> Any:
    """Return what the upstream keeps of a run: what it was asked for."""
    query = "SELECT upstream_response_id FROM runs WHERE id = $1"
    response_id = await shared.fetchval(query, run_id)
    url = f"http://127.0.0.1:{shared.sandbox_port}/v1/responses/{response_id}"
    async with httpx2.AsyncClient() as http:
        found = await http.get(url, headers={"Authorization": "Bearer sk-any"})
        assert found.is_success, found.text
        return found.json()


async def test_a_run_keeps_its_own_configuration(
    shared: Stack, sdk: AsyncOpenAI, thread_id: str
) -> None:
    assistant_id = await tutor(sdk, instructions="Be kind.", temperature=0.5)
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread_id,
        assistant_id=assistant_id,
        model="another-model",
        instructions="Be strict.",
        additional_instructions="In a sentence.",
        temperature=0.25,
        top_p=0.75,
        response_format=SCHEMA,
        metadata={"k": "v"},
    )
    assert run.status == "completed"
    assert run.model == "another-model"
    assert run.instructions == "Be strict.\n\nIn a sentence."
    assert (run.temperature, run.top_p, run.metadata) == (0.25, 0.75, {"k": "v"})
    told = await asked_upstream(shared, run.id)
    assert told["model"] == "another-model"
    assert told["instructions"] == run.instructions
    assert (told["temperature"], told["top_p"]) == (0.25, 0.75)
    assert told["text"]["format"]["name"] == "answer"
    # The assistant is what it was, and so is the next run.
    kept = await sdk.beta.assistants.retrieve(assistant_id)
    assert (kept.model, kept.instructions) == ("gpt-4o-mini", "Be kind.")
    plain = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread_id, assistant_id=assistant_id
    )
    assert (plain.model, plain.instructions, plain.temperature) == (
        "gpt-4o-mini",
        "Be kind.",
        0.5,
    )
    listed = await sdk.beta.threads.runs.list(thread_id)
    assert [item.instructions for item in listed.data] == [plain.instructions, run.instructions]


async def test_a_run_is_cut_at_the_tokens_that_it_may_cost(
    shared: Stack, sdk: AsyncOpenAI
) -> None:
    word = f"word{uuid.uuid4().hex[:8]}"
    question = f"Please solve 3x**2 + 11x - 10 = 0 step by step and in every detail, {word}"
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": question}])
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=await tutor(sdk), max_completion_tokens=256
    )
    assert (await asked_upstream(shared, run.id))["max_output_tokens"] == 256
    assert run.max_completion_tokens == 256
    assert (run.status, run.completed_at) == ("incomplete", None)
    assert run.incomplete_details is not None
    assert run.incomplete_details.reason == "max_completion_tokens"
    assert run.usage is not None
    assert run.usage.completion_tokens == 256
    (message, _) = (await sdk.beta.threads.messages.list(thread.id)).data
    assert message.incomplete_details is not None
    assert message.incomplete_details.reason == "max_tokens"
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.beta.threads.runs.create(
            thread.id, assistant_id=run.assistant_id, max_completion_tokens=255
        )
    assert refused.value.param == "max_completion_tokens"


async def test_runs_that_are_varied_alike_share_a_version_and_later_ones_are_none_of_it(
    shared: Stack, sdk: AsyncOpenAI, thread_id: str
) -> None:
    assistant_id = await tutor(sdk, instructions="Be kind.")
    for _ in range(2):
        await sdk.beta.threads.runs.create_and_poll(
            thread_id=thread_id, assistant_id=assistant_id, temperature=0.1
        )
    query = "SELECT version FROM assistant_versions WHERE assistant_id = $1 ORDER BY version"
    found = [row["version"] for row in await shared.fetch(query, assistant_id)]
    assert found[0] < 0
    assert found[1:] == [1]
    await sdk.beta.assistants.update(assistant_id, instructions="Be strict.")
    found = [row["version"] for row in await shared.fetch(query, assistant_id)]
    assert found[1:] == [1, 2]
    run = await sdk.beta.threads.runs.create(thread_id, assistant_id=assistant_id)
    assert (run.instructions, run.temperature) == ("Be strict.", 1.0)


async def test_an_override_that_changes_nothing_makes_no_version(
    shared: Stack, sdk: AsyncOpenAI, thread_id: str
) -> None:
    assistant_id = await tutor(sdk, tools=[FUNCTION])
    run = await sdk.beta.threads.runs.create(
        thread_id, assistant_id=assistant_id, model="gpt-4o-mini", temperature=1, tools=[FUNCTION]
    )
    query = "SELECT assistant_version FROM runs WHERE id = $1"
    assert await shared.fetchval(query, run.id) == 1


async def test_additional_messages_stand_before_the_run(sdk: AsyncOpenAI, thread_id: str) -> None:
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread_id,
        assistant_id=await tutor(sdk),
        additional_messages=[
            {"role": "assistant", "content": "4. And what else?"},
            {"role": "user", "content": "What is 20 + 22?", "metadata": {"n": "2"}},
        ],
    )
    page = await sdk.beta.threads.messages.list(thread_id, order="asc")
    assert [item.role for item in page.data] == ["user", "assistant", "user", "assistant"]
    assert page.data[2].metadata == {"n": "2"}
    assert [item.run_id for item in page.data] == [None, None, None, run.id]
    (part,) = page.data[3].content
    assert part.type == "text"
    assert "42" in part.text.value


async def test_an_active_run_is_in_the_way_in_the_wires_own_words(
    shared: Stack, sdk: AsyncOpenAI
) -> None:
    word = f"word{uuid.uuid4().hex[:8]}"
    stall = {"type": "stall", "seconds": 60}
    await shared.admin(
        "POST", "faults", {"path": "/v1/responses", "text": word, "times": 1, "action": stall}
    )
    assistant_id = await tutor(sdk)
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": f"2 + 2 {word}"}])
    run = await sdk.beta.threads.runs.create(thread.id, assistant_id=assistant_id)
    with pytest.raises(openai.BadRequestError) as second:
        await sdk.beta.threads.runs.create(thread.id, assistant_id=assistant_id)
    assert second.value.body == {
        "message": f"Thread {thread.id} already has an active run {run.id}.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    with pytest.raises(openai.BadRequestError) as added:
        await sdk.beta.threads.messages.create(thread.id, role="user", content="Hello?")
    words = f"Can't add messages to {thread.id} while a run {run.id} is active."
    assert words in added.value.message
    (first,) = (await sdk.beta.threads.messages.list(thread.id)).data
    with pytest.raises(openai.BadRequestError, match="while a run"):
        await sdk.beta.threads.messages.delete(first.id, thread_id=thread.id)
    await sdk.beta.threads.runs.cancel(run.id, thread_id=thread.id)
    ended = await sdk.beta.threads.runs.poll(run.id, thread_id=thread.id)
    assert ended.status == "cancelled"
    await sdk.beta.threads.messages.create(thread.id, role="user", content="Hello?")


async def test_of_many_runs_at_once_one_is_made(sdk: AsyncOpenAI, thread_id: str) -> None:
    assistant_id = await tutor(sdk)
    made = await asyncio.gather(
        *(sdk.beta.threads.runs.create(thread_id, assistant_id=assistant_id) for _ in range(5)),
        return_exceptions=True,
    )
    refused = [item for item in made if isinstance(item, openai.BadRequestError)]
    runs = (await sdk.beta.threads.runs.list(thread_id)).data
    assert len(refused) + len(runs) == len(made)
    assert len(runs) >= 1
    assert all("already has an active run" in item.message for item in refused)


async def test_polls_say_when_to_come_back(sdk: AsyncOpenAI, thread_id: str) -> None:
    run = await sdk.beta.threads.runs.create(thread_id, assistant_id=await tutor(sdk))
    raw = await sdk.beta.threads.runs.with_raw_response.retrieve(run.id, thread_id=thread_id)
    assert int(raw.headers["openai-poll-after-ms"]) == 500
    assert raw.headers["x-request-id"]


UNSUPPORTED: list[dict[str, Any]] = [
    {"max_prompt_tokens": 1000},
    {"truncation_strategy": {"type": "last_messages", "last_messages": 3}},
    {"reasoning_effort": "low"},
]


@pytest.mark.parametrize("field", UNSUPPORTED, ids=json.dumps)
async def test_what_can_not_be_honoured_is_refused(
    sdk: AsyncOpenAI, thread_id: str, field: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.beta.threads.runs.create(
            thread_id, assistant_id="asst_default", extra_body=field
        )
    (name,) = field
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
    assert (await sdk.beta.threads.runs.list(thread_id)).data == []


async def test_what_can_not_be_honoured_is_taken_at_its_default(
    sdk: AsyncOpenAI, thread_id: str
) -> None:
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread_id,
        assistant_id="asst_default",
        max_prompt_tokens=None,
        max_completion_tokens=None,
        tool_choice="auto",
        parallel_tool_calls=True,
        truncation_strategy={"type": "auto", "last_messages": None},
        instructions=None,
        tools=None,
        response_format="auto",
        additional_messages=None,
    )
    assert run.status == "completed"


REFUSED: dict[str, tuple[str, str, dict[str, Any], str | None, str]] = {
    "a model is missing": ("POST", "assistants", {}, "model", "missing_required_parameter"),
    "an unknown field": (
        "POST", "assistants", {"model": "m", "file_ids": []}, "file_ids", "unknown_parameter",
    ),
    "a long name": (
        "POST", "assistants", {"model": "m", "name": "n" * 257}, "name",
        "string_above_max_length",
    ),
    "a wrong type": ("POST", "assistants", {"model": 5}, "model", "invalid_type"),
    "a hot tutor": (
        "POST", "assistants", {"model": "m", "temperature": 3}, "temperature",
        "integer_above_max_value",
    ),
    "another tool": (
        "POST", "assistants", {"model": "m", "tools": [{"type": "web_search"}]},
        "tools[0]", "invalid_value",
    ),
    "files": (
        "POST", "threads", {"tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}},
        "tool_resources", "unsupported_parameter",
    ),
    "a picture": (
        "POST", "threads",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
        "messages[0].content[0]", "unsupported_parameter",
    ),
    "a part of no kind": (
        "POST", "threads", {"messages": [{"role": "user", "content": [{"type": "canary"}]}]},
        "messages[0].content[0]", "invalid_value",
    ),
    "a part without its text": (
        "POST", "threads", {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text", "missing_required_parameter",
    ),
    "a system message": (
        "POST", "threads", {"messages": [{"role": "system", "content": "Obey."}]},
        "messages[0].role", "invalid_value",
    ),
    "no assistant": ("POST", "threads/runs", {}, "assistant_id", "missing_required_parameter"),
    "a format of no kind": (
        "POST", "assistants", {"model": "m", "response_format": {"type": "xml"}},
        "response_format.type", "invalid_value",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_wrong_request_is_refused_in_the_wires_envelope(shared: Stack, name: str) -> None:
    method, path, body, param, code = REFUSED[name]
    client = shared.client()
    response = await client.http.request(method, f"/openai/v1/{path}", json=body)
    assert response.status_code == 400, response.text
    assert "canary" not in response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        param,
        code,
    )


async def test_errors_have_the_sdks_classes(shared: Stack, new_sdk: NewSdk) -> None:
    sdk = new_sdk()
    anonymous = AsyncOpenAI(
        api_key="sk-none", base_url=f"{shared.api_urls[0]}/openai/v1", max_retries=0
    )
    with pytest.raises(openai.AuthenticationError) as unknown:
        await anonymous.beta.threads.create()
    await anonymous.close()
    assert unknown.value.code == "invalid_api_key"
    assert "sk-none" not in unknown.value.message
    stranger = await shared.client().http.get(
        "/openai/v1/threads/no-id", headers={"Authorization": ""}
    )
    assert stranger.status_code == 401
    absent = "run_000000000000000000000000"
    with pytest.raises(openai.NotFoundError) as found:
        await sdk.beta.threads.retrieve("sess_nobodys")
    assert "No thread found with id 'sess_nobodys'." in found.value.message
    with pytest.raises(openai.NotFoundError, match="No thread found"):
        await sdk.beta.threads.runs.retrieve(absent, thread_id="sess_nobodys")
    thread = await sdk.beta.threads.create()
    with pytest.raises(openai.NotFoundError, match=f"No run found with id '{absent}'"):
        await sdk.beta.threads.runs.retrieve(absent, thread_id=thread.id)
    run = await sdk.beta.threads.runs.create(
        thread.id,
        assistant_id="asst_default",
        additional_messages=[{"role": "user", "content": "2 + 2"}],
    )
    with pytest.raises(openai.NotFoundError, match="No run step found with id 'step_none'"):
        await sdk.beta.threads.runs.steps.retrieve("step_none", thread_id=thread.id, run_id=run.id)
    with pytest.raises(openai.BadRequestError, match="assistants=v2"):
        await sdk.beta.assistants.list(extra_headers={"OpenAI-Beta": "assistants=v1"})
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        await sdk.batches.list()
    empty = await sdk.beta.threads.create()
    with pytest.raises(openai.BadRequestError, match="no message of the user"):
        await sdk.beta.threads.runs.create(empty.id, assistant_id="asst_default")
    with pytest.raises(openai.BadRequestError, match="non-empty"):
        await sdk.beta.threads.messages.create(empty.id, role="user", content="  ")
    with pytest.raises(openai.BadRequestError, match="too long"):
        await sdk.beta.threads.messages.create(empty.id, role="user", content="x" * 32_001)
    long = "x" * 32_001
    kept = await sdk.beta.threads.messages.create(empty.id, role="assistant", content=long)
    assert kept.role == "assistant"


async def test_a_body_that_is_too_large_or_no_json_is_refused_in_the_envelope(
    shared: Stack,
) -> None:
    client = shared.client()
    large = await client.http.post(
        "/openai/v1/threads",
        content=b"x" * (3 << 20),
        headers={"content-type": "application/json"},
    )
    assert large.status_code == 413
    assert set(large.json()["error"]) == {"message", "type", "param", "code"}
    broken = await client.http.post(
        "/openai/v1/threads", content=b"{", headers={"content-type": "application/json"}
    )
    assert broken.status_code == 400
    assert "could not parse the JSON" in broken.json()["error"]["message"]


async def test_another_users_objects_are_not_there(new_sdk: NewSdk) -> None:
    owner, other = new_sdk(), new_sdk(at=1)
    assistant_id = await tutor(owner)
    run = await owner.beta.threads.create_and_run_poll(
        assistant_id=assistant_id, thread={"messages": [{"role": "user", "content": "2 + 2"}]}
    )
    thread_id = run.thread_id
    (answer, _) = (await owner.beta.threads.messages.list(thread_id)).data
    (step,) = (await owner.beta.threads.runs.steps.list(run.id, thread_id=thread_id)).data
    beta = other.beta
    calls: list[Any] = [
        beta.assistants.retrieve(assistant_id),
        beta.threads.retrieve(thread_id),
        beta.threads.update(thread_id, metadata={"a": "b"}),
        beta.threads.delete(thread_id),
        beta.threads.messages.create(thread_id, role="user", content="Hello"),
        beta.threads.messages.list(thread_id),
        beta.threads.messages.retrieve(answer.id, thread_id=thread_id),
        beta.threads.messages.update(answer.id, thread_id=thread_id, metadata={"a": "b"}),
        beta.threads.messages.delete(answer.id, thread_id=thread_id),
        beta.threads.runs.create(thread_id, assistant_id="asst_default"),
        beta.threads.runs.create(thread_id, assistant_id="asst_default", stream=True),
        beta.threads.runs.list(thread_id),
        beta.threads.runs.retrieve(run.id, thread_id=thread_id),
        beta.threads.runs.update(run.id, thread_id=thread_id, metadata={"a": "b"}),
        beta.threads.runs.cancel(run.id, thread_id=thread_id),
        beta.threads.runs.steps.list(run.id, thread_id=thread_id),
        beta.threads.runs.steps.retrieve(step.id, thread_id=thread_id, run_id=run.id),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            await call
    # Nor by way of a thread of their own.
    mine = await beta.threads.create(messages=[{"role": "user", "content": "2 + 2"}])
    with pytest.raises(openai.NotFoundError):
        await beta.threads.runs.retrieve(run.id, thread_id=mine.id)
    with pytest.raises(openai.NotFoundError):
        await beta.threads.messages.update(answer.id, thread_id=mine.id, metadata={"a": "b"})
    with pytest.raises(openai.NotFoundError):
        await beta.threads.messages.delete(answer.id, thread_id=mine.id)
    same = await owner.beta.threads.messages.retrieve(answer.id, thread_id=thread_id)
    assert same == answer


@pytest.fixture(scope="module")
async def closed(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Where users have no assistants of their own."""
    folder: Path = tmp_path_factory.mktemp("closed")
    async with running(await new_database(), folder, COMPAT_ASSISTANTS="off") as found:
        yield found


async def test_where_users_have_no_assistants_of_their_own(closed: Stack) -> None:
    sdk = sdk_at(closed.api_urls[0])
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "2 + 2"}])
    with pytest.raises(openai.PermissionDeniedError):
        await sdk.beta.assistants.create(model="m")
    for changes in ({"instructions": "Obey."}, {"model": "m"}, {"additional_instructions": "!"}):
        with pytest.raises(openai.PermissionDeniedError):
            await sdk.beta.threads.runs.create(
                thread.id, assistant_id="asst_default", extra_body=changes
            )
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id="asst_default"
    )
    assert run.status == "completed"
    await sdk.close()


async def test_an_own_assistant_is_frozen_where_that_was_switched_off(closed: Stack) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    sdk = sdk_at(closed.api_urls[0], name)
    await sdk.beta.threads.create()
    await closed.fetch(
        "WITH made AS (INSERT INTO assistants (id, owner_id, version, meta) "
        "SELECT $2, id, 1, '{}' FROM users WHERE subject = $1 RETURNING id) "
        "INSERT INTO assistant_versions (assistant_id, version, config) "
        "SELECT id, 1, (SELECT config FROM assistant_versions WHERE assistant_id = "
        "'asst_default' AND version = 1) FROM made",
        name,
        "asst_older",
    )
    assert (await sdk.beta.assistants.retrieve("asst_older")).name == "Math Tutor"
    with pytest.raises(openai.PermissionDeniedError):
        await sdk.beta.assistants.update("asst_older", name="New")
    assert (await sdk.beta.assistants.delete("asst_older")).deleted
    await sdk.close()


async def test_an_assistant_that_is_deleted_while_runs_begin_is_kept_for_them(
    sdk: AsyncOpenAI,
) -> None:
    for _ in range(5):
        assistant_id = await tutor(sdk)
        thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "2 + 2"}])
        made, _ = await asyncio.gather(
            sdk.beta.threads.runs.create(thread.id, assistant_id=assistant_id),
            sdk.beta.assistants.delete(assistant_id),
            return_exceptions=True,
        )
        if isinstance(made, openai.NotFoundError):
            continue
        assert not isinstance(made, BaseException), made
        run = await sdk.beta.threads.runs.poll(made.id, thread_id=thread.id)
        assert run.status == "completed"


async def test_a_stream_that_there_is_no_room_for_leaves_nothing_behind(
    shared: Stack, new_sdk: NewSdk
) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    sdk = new_sdk(name)
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "2 + 2"}])
    url = f"{shared.api_urls[0]}/v1/sessions/{thread.id}/events"
    headers = {"Authorization": f"Bearer {token(name)}"}
    async with httpx2.AsyncClient(timeout=30) as http:
        opened = [
            await http.send(http.build_request("GET", url, headers=headers), stream=True)
            for _ in range(20)
        ]
        with pytest.raises(openai.RateLimitError) as refused:
            await sdk.beta.threads.runs.create(thread.id, assistant_id="asst_default", stream=True)
        assert refused.value.response.headers["retry-after"]
        assert (await sdk.beta.threads.runs.list(thread.id)).data == []
        for response in opened:
            await response.aclose()

    async def is_streamed() -> bool:
        try:
            stream = await sdk.beta.threads.runs.create(
                thread.id, assistant_id="asst_default", stream=True
            )
        except openai.RateLimitError:
            return False
        return [event.event async for event in stream][-1] == "thread.run.completed"

    await until(is_streamed)
