"""Assistants, threads, messages and runs through the real SDK, every object strictly validated."""

import time
import uuid
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.integration.compat.conftest import EQUATION, QUESTION, NewSdk, text_of, tutor
from tests.stack import Stack

FUNCTION: Any = {
    "type": "function",
    "function": {"name": "plot", "parameters": {"type": "object", "properties": {}}},
}


async def test_an_assistant_is_made_listed_changed_and_deleted(sdk: AsyncOpenAI) -> None:
    before = int(time.time())
    made = await sdk.beta.assistants.create(
        model="gpt-4o-mini",
        name="Math Tutor",
        description="Kind.",
        instructions="Answer briefly.",
        tools=[FUNCTION],
        temperature=0.5,
        top_p=0.9,
        response_format={"type": "json_object"},
        metadata={"class": "9b"},
    )
    assert made.object == "assistant"
    assert before - 5 <= made.created_at <= time.time() + 5
    assert (made.name, made.description, made.model) == ("Math Tutor", "Kind.", "gpt-4o-mini")
    assert made.instructions == "Answer briefly."
    assert [tool.type for tool in made.tools] == ["function"]
    assert (made.temperature, made.top_p, made.metadata) == (0.5, 0.9, {"class": "9b"})
    assert await sdk.beta.assistants.retrieve(made.id) == made
    assert made in (await sdk.beta.assistants.list()).data

    changed = await sdk.beta.assistants.update(made.id, name="Other", instructions=None, tools=[])
    assert (changed.name, changed.instructions, changed.tools) == ("Other", None, [])
    assert (changed.temperature, changed.metadata) == (0.5, {"class": "9b"})
    assert await sdk.beta.assistants.retrieve(made.id) == changed

    gone = await sdk.beta.assistants.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "assistant.deleted")
    with pytest.raises(openai.NotFoundError) as refused:
        await sdk.beta.assistants.retrieve(made.id)
    assert f"No assistant found with id '{made.id}'." in refused.value.message


async def test_an_assistant_at_its_defaults_is_the_tutorials(sdk: AsyncOpenAI) -> None:
    made = await sdk.beta.assistants.create(model="gpt-4o-mini")
    assert (made.name, made.description, made.instructions) == (None, None, None)
    assert (made.temperature, made.top_p, made.response_format) == (1.0, 1.0, "auto")
    assert (made.tools, made.metadata) == ([], {})


async def test_an_own_assistant_is_there_for_nobody_else_on_either_face(
    shared: Stack, new_sdk: NewSdk
) -> None:
    name = f"owner-{uuid.uuid4().hex[:8]}"
    owner, other = new_sdk(name), new_sdk(scope="assistants:write")
    assistant_id = await tutor(owner, instructions="Mine alone.")
    path = f"/v1/assistants/{assistant_id}"
    mine = await shared.client(user=name).call("GET", path, 200)
    assert mine["instructions"] == "Mine alone."
    for stranger in (shared.client(), shared.client(scope="assistants:write")):
        await stranger.call("GET", path, 404)
        listed = await stranger.call("GET", "/v1/assistants", 200, params={"limit": 100})
        assert assistant_id not in [item["id"] for item in listed["data"]]
        await stranger.call("POST", "/v1/sessions", 404, json={"assistant_id": assistant_id})
    await shared.client(scope="assistants:write").call("DELETE", path, 404)
    with pytest.raises(openai.NotFoundError):
        await other.beta.assistants.update(assistant_id, name="Stolen")
    thread = await other.beta.threads.create(messages=[{"role": "user", "content": "2 + 2"}])
    with pytest.raises(openai.NotFoundError, match="No assistant found"):
        await other.beta.threads.runs.create(thread.id, assistant_id=assistant_id)
    renamed = await shared.client(user=name).call("PATCH", path, 200, json={"name": "Renamed"})
    assert renamed["version"] == 2


async def test_the_tenants_assistants_are_used_but_neither_read_nor_changed(
    shared: Stack, new_sdk: NewSdk
) -> None:
    tenant = f"tenant-{uuid.uuid4().hex[:8]}"
    teacher = shared.client(scope="assistants:write", tenant=tenant)
    made = await teacher.call(
        "POST",
        "/v1/assistants",
        201,
        json={"model": "m", "instructions": "A secret of the school.", "tools": [FUNCTION]},
    )
    student = new_sdk(tenant=tenant)
    shown = await student.beta.assistants.retrieve(made["id"])
    assert (shown.instructions, shown.tools) == (None, [])
    with pytest.raises(openai.PermissionDeniedError):
        await student.beta.assistants.update(made["id"], name="Mine")
    with pytest.raises(openai.PermissionDeniedError):
        await student.beta.assistants.delete(made["id"])
    thread = await student.beta.threads.create(messages=[{"role": "user", "content": "2 + 2"}])
    run = await student.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=made["id"], additional_instructions="In Latin."
    )
    assert (run.status, run.instructions, run.tools) == ("completed", "", [])


async def test_a_thread_is_a_session_under_the_same_id(shared: Stack, new_sdk: NewSdk) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    sdk, client = new_sdk(name), shared.client(user=name)
    thread = await sdk.beta.threads.create(metadata={"class": "9b"})
    assert (thread.object, thread.metadata) == ("thread", {"class": "9b"})
    session = await client.call("GET", f"/v1/sessions/{thread.id}", 200)
    assert session["metadata"] == {"class": "9b"}
    updated = await sdk.beta.threads.update(thread.id, metadata={"class": "9c"})
    assert await sdk.beta.threads.retrieve(thread.id) == updated
    assert updated.metadata == {"class": "9c"}
    gone = await sdk.beta.threads.delete(thread.id)
    assert (gone.id, gone.deleted, gone.object) == (thread.id, True, "thread.deleted")
    await client.call("GET", f"/v1/sessions/{thread.id}", 404)


async def test_a_thread_begins_with_messages_of_both_roles_and_the_tutor_is_told_them(
    sdk: AsyncOpenAI,
) -> None:
    thread = await sdk.beta.threads.create(
        messages=[
            {"role": "user", "content": f"Please solve {EQUATION}"},
            {"role": "assistant", "content": "Which way do you like best?"},
            {"role": "user", "content": "Explain in more detail, please.", "metadata": {"n": "3"}},
        ]
    )
    page = await sdk.beta.threads.messages.list(thread.id, order="asc")
    assert [message.role for message in page.data] == ["user", "assistant", "user"]
    assert {message.status for message in page.data} == {"completed"}
    assert page.data[2].metadata == {"n": "3"}
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=await tutor(sdk)
    )
    answer = await text_of(sdk, thread.id, run.id)
    assert "241" in answer
    # And what was said last by the assistant, without a run, is told before the next question.
    await sdk.beta.threads.messages.create(thread.id, role="assistant", content="Any questions?")
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=run.assistant_id
    )
    assert run.status == "completed"
    page = await sdk.beta.threads.messages.list(thread.id)
    assert len(page.data) == 6


async def test_the_tutorials_dialogue(sdk: AsyncOpenAI) -> None:
    assistant = await sdk.beta.assistants.create(
        name="Math Tutor",
        instructions="You are a personal math tutor. Answer questions briefly.",
        model="gpt-4o-mini",
    )
    thread = await sdk.beta.threads.create()
    message = await sdk.beta.threads.messages.create(thread.id, role="user", content=QUESTION)
    assert (message.role, message.run_id, message.assistant_id) == ("user", None, None)
    run = await sdk.beta.threads.runs.create(thread.id, assistant_id=assistant.id)
    assert (run.status, run.started_at, run.usage) == ("queued", None, None)
    assert (run.thread_id, run.assistant_id) == (thread.id, assistant.id)
    assert run.instructions == assistant.instructions
    run = await sdk.beta.threads.runs.poll(run.id, thread_id=thread.id)
    assert run.status == "completed"
    assert run.completed_at is not None
    assert run.started_at is not None
    assert (run.expires_at, run.failed_at, run.cancelled_at) == (None, None, None)
    assert run.usage is not None
    assert run.usage.total_tokens == run.usage.prompt_tokens + run.usage.completion_tokens > 0
    (answer, question) = (await sdk.beta.threads.messages.list(thread.id)).data
    assert question == message
    assert (answer.role, answer.run_id) == ("assistant", run.id)
    assert answer.assistant_id == assistant.id
    assert "\\sqrt{241}" in await text_of(sdk, thread.id, run.id)
    assert await sdk.beta.threads.messages.retrieve(answer.id, thread_id=thread.id) == answer
    (step,) = (await sdk.beta.threads.runs.steps.list(run.id, thread_id=thread.id)).data
    assert (step.status, step.type, step.usage) == ("completed", "message_creation", step.usage)
    assert step.usage is not None
    assert step.usage.total_tokens == run.usage.total_tokens
    assert step.step_details.type == "message_creation"
    assert step.step_details.message_creation.message_id == answer.id
    found = await sdk.beta.threads.runs.steps.retrieve(step.id, thread_id=thread.id, run_id=run.id)
    assert found == step

    again = await sdk.beta.threads.messages.create(
        thread.id,
        role="user",
        content="설명이 잘 이해가 가지 않습니다. 좀 더 자세히 설명해 주세요.",
    )
    await sdk.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    page = await sdk.beta.threads.messages.list(thread.id, order="asc", after=again.id)
    (part,) = page.data[0].content
    assert part.type == "text"
    assert "241" in part.text.value


async def test_metadata_of_messages_and_runs_is_replaced_on_both_faces(
    shared: Stack, new_sdk: NewSdk
) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    sdk, client = new_sdk(name), shared.client(user=name)
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "2 + 2"}])
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=await tutor(sdk), metadata={"a": "1"}
    )
    assert run.metadata == {"a": "1"}
    updated = await sdk.beta.threads.runs.update(run.id, thread_id=thread.id, metadata={"b": "2"})
    assert updated.metadata == {"b": "2"}
    assert updated.status == "completed"
    assert (await client.run(thread.id, run.id))["metadata"] == {"b": "2"}
    (answer, _) = (await sdk.beta.threads.messages.list(thread.id)).data
    marked = await sdk.beta.threads.messages.update(
        answer.id, thread_id=thread.id, metadata={"rating": "5"}
    )
    assert marked.metadata == {"rating": "5"}
    assert marked.content == answer.content
    path = f"/v1/sessions/{thread.id}/messages/{answer.id}"
    assert (await client.call("GET", path, 200))["metadata"] == {"rating": "5"}


async def test_a_deleted_message_is_gone_from_transcript_log_and_context(
    shared: Stack, new_sdk: NewSdk
) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    sdk, client = new_sdk(name), shared.client(user=name)
    assistant_id = await tutor(sdk)
    thread = await sdk.beta.threads.create()
    asked = await sdk.beta.threads.messages.create(
        thread.id, role="user", content=f"Please solve {EQUATION}"
    )
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant_id
    )
    (answer, _) = (await sdk.beta.threads.messages.list(thread.id)).data
    for message_id in (asked.id, answer.id):
        gone = await sdk.beta.threads.messages.delete(message_id, thread_id=thread.id)
        assert (gone.deleted, gone.object) == (True, "thread.message.deleted")
        with pytest.raises(openai.NotFoundError, match="No message found"):
            await sdk.beta.threads.messages.retrieve(message_id, thread_id=thread.id)
    assert (await sdk.beta.threads.messages.list(thread.id)).data == []
    kept = await shared.fetch("SELECT data FROM events WHERE session_id = $1", thread.id)
    assert kept
    assert not [row for row in kept if "√241" in row["data"] or EQUATION in row["data"]]
    # A reader from before is told where things stand, instead of a log with holes.
    seen = await client.stream(f"/v1/sessions/{thread.id}/runs/{run.id}/events?after=1")
    assert "event: reset" in seen
    # The upstream is asked in a thread that does not hold it.
    await sdk.beta.threads.messages.create(
        thread.id, role="user", content="Please explain in more detail."
    )
    run = await sdk.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant_id
    )
    assert run.status == "completed"
    assert "241" not in await text_of(sdk, thread.id, run.id)


async def test_runs_are_listed_newest_first(sdk: AsyncOpenAI) -> None:
    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "2 + 2"}])
    assistant_id = await tutor(sdk, instructions="One.")
    runs = []
    for text in ("2 + 2", "3 + 3", "4 + 4"):
        run = await sdk.beta.threads.runs.create_and_poll(
            thread_id=thread.id,
            assistant_id=assistant_id,
            additional_messages=[{"role": "user", "content": text}],
        )
        runs.append(run)
    page = await sdk.beta.threads.runs.list(thread.id, limit=2)
    assert page.data == [runs[2], runs[1]]
    assert page.has_more
    assert [run async for run in page] == runs[::-1]


async def test_models_are_those_of_the_assistants(sdk: AsyncOpenAI) -> None:
    await sdk.beta.assistants.create(model="a-model/of-mine")
    listed = [model.id async for model in sdk.models.list()]
    assert {"a-model/of-mine", "test-model"} <= set(listed)
    assert (await sdk.models.retrieve("a-model/of-mine")).id == "a-model/of-mine"
    with pytest.raises(openai.NotFoundError) as refused:
        await sdk.models.retrieve("nobodys")
    assert refused.value.code == "model_not_found"
