"""Code and search as an assistant's tools, vector stores and forms of answers, by the SDK."""

import json
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from app.sandbox.tutor.phrases import ENGLISH
from tests.integration.compat.conftest import NewSdk, text_of, tutor
from tests.stack import Stack, blocks_of, until

NOTES = b"The mitochondria is the powerhouse of the cell.\n\nA prime has two divisors."
QUESTION = "What does the notebook call mitochondria?"
QUOTED = "> The mitochondria is the powerhouse of the cell."


async def upload(sdk: AsyncOpenAI, name: str = "notes.txt", content: bytes = NOTES) -> str:
    return (await sdk.files.create(file=(name, content), purpose="assistants")).id


async def asked(sdk: AsyncOpenAI, assistant_id: str, question: str, **fields: Any) -> Any:
    return await sdk.beta.threads.create_and_run_poll(
        assistant_id=assistant_id,
        thread={"messages": [{"role": "user", "content": question}]},
        **fields,
    )


async def test_a_store_is_made_filled_changed_and_deleted(sdk: AsyncOpenAI, shared: Stack) -> None:
    file_id = await upload(sdk)
    store = await sdk.vector_stores.create(
        name="Biology", file_ids=[file_id], metadata={"class": "9b"}
    )
    assert (store.name, store.metadata, store.file_counts.total) == ("Biology", {"class": "9b"}, 1)
    ready = await sdk.vector_stores.retrieve(store.id)
    assert (ready.status, ready.usage_bytes) == ("completed", len(NOTES))
    picture = await upload(sdk, "p.png", b"\x89PNG\r\n\x1a\n" + b"\xff" * 64)
    failed = await sdk.vector_stores.files.create_and_poll(picture, vector_store_id=store.id)
    assert (failed.id, failed.status) == (picture, "failed")
    assert failed.last_error is not None
    assert failed.last_error.code == "unsupported_file"
    sent = await sdk.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("more.txt", b"More."),
        chunking_strategy={
            "type": "static",
            "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50},
        },
    )
    assert sent.chunking_strategy is not None
    assert sent.chunking_strategy.type == "static"
    batch = await sdk.vector_stores.file_batches.upload_and_poll(
        store.id, files=[("a.txt", b"a"), ("b.txt", b"b")]
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 2)
    listed = [each.id async for each in sdk.vector_stores.files.list(store.id, limit=2)]
    assert len(listed) == len(set(listed)) == 5
    assert listed[-1] == file_id
    of_batch = await sdk.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
    assert len(of_batch.data) == 2
    failures = await sdk.vector_stores.files.list(store.id, filter="failed")
    assert [each.id for each in failures.data] == [picture]
    await sdk.vector_stores.files.delete(picture, vector_store_id=store.id)
    await sdk.files.delete(sent.id)
    assert (await sdk.vector_stores.retrieve(store.id)).file_counts.total == 3
    changed = await sdk.vector_stores.update(store.id, name="Other", metadata={})
    assert (changed.name, changed.metadata) == ("Other", {})
    assert [each.id async for each in sdk.vector_stores.list()] == [store.id]
    upstream = await shared.fetchval(
        "SELECT upstream_id FROM upstream_objects WHERE name = $1", store.id
    )
    assert upstream.startswith("vs_")
    assert upstream != store.id
    gone = await sdk.vector_stores.delete(store.id)
    assert (gone.id, gone.deleted) == (store.id, True)
    with pytest.raises(openai.NotFoundError, match="No vector store found"):
        await sdk.vector_stores.retrieve(store.id)

    async def is_deleted() -> bool:
        query = "SELECT deleted_at FROM upstream_objects WHERE name = $1"
        return bool(await shared.fetchval(query, store.id))

    await until(is_deleted, within=60)
    kept = AsyncOpenAI(api_key="x", base_url=f"http://127.0.0.1:{shared.sandbox_port}/v1")
    async with kept:
        with pytest.raises(openai.NotFoundError):
            await kept.vector_stores.retrieve(upstream)


async def test_code_is_a_step_that_is_listed_and_streamed(sdk: AsyncOpenAI) -> None:
    file_id = await upload(sdk, "data.csv", b"x,y\n1,2\n")
    assistant = await tutor(
        sdk,
        tools=[{"type": "code_interpreter"}],
        tool_resources={"code_interpreter": {"file_ids": [file_id]}},
    )
    shown = await sdk.beta.assistants.retrieve(assistant)
    assert shown.tool_resources is not None
    assert shown.tool_resources.code_interpreter is not None
    assert shown.tool_resources.code_interpreter.file_ids == [file_id]
    run = await asked(sdk, assistant, "What is 12*34 + 5?")
    assert run.status == "completed"
    assert "413" in await text_of(sdk, run.thread_id, run.id)
    steps = (await sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id)).data
    assert [step.type for step in steps] == ["message_creation", "tool_calls"]
    details = steps[1].step_details
    assert details.type == "tool_calls"
    (call,) = details.tool_calls
    assert call.type == "code_interpreter"
    assert call.code_interpreter.input == "print(12 * 34 + 5)"
    (output,) = call.code_interpreter.outputs
    assert output.type == "logs"
    assert output.logs == "413\n"
    assert steps[1].status == "completed"

    thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "2^10?"}])
    async with sdk.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant) as stream:
        names = [event.event async for event in stream]
        streamed = await stream.get_final_run_steps()
    first = names.index("thread.run.step.created")
    assert names[first : first + 3] == [
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.run.step.delta",
    ]
    assert names.index("thread.run.step.completed") < names.index("thread.message.created")
    last = await stream.get_final_run()
    listed = await sdk.beta.threads.runs.steps.list(last.id, thread_id=thread.id, order="asc")
    assert [step.id for step in streamed] == [step.id for step in listed.data]
    # What the SDK put together from the deltas is what a poll is told.
    told, kept = (steps[0].step_details for steps in (streamed, listed.data))
    assert told.type == kept.type == "tool_calls"
    one, other = told.tool_calls[0], kept.tool_calls[0]
    assert one.type == other.type == "code_interpreter"
    assert one.id == other.id
    assert one.code_interpreter.input == other.code_interpreter.input == "print(2**10)"
    assert [output.to_dict()["logs"] for output in one.code_interpreter.outputs] == ["1024\n"]


async def test_a_citation_names_our_file_in_transcript_stream_and_poll(
    sdk: AsyncOpenAI, shared: Stack
) -> None:
    file_id = await upload(sdk)
    upstream_file = await shared.fetchval(
        "SELECT upstream_id FROM upstream_objects WHERE name = $1", file_id
    )
    made = await sdk.beta.assistants.create(
        model="gpt-4o-mini",
        tools=[{"type": "file_search", "file_search": {"max_num_results": 3}}],
        tool_resources={"file_search": {"vector_stores": [{"file_ids": [file_id]}]}},
    )
    assert made.tool_resources is not None
    assert made.tool_resources.file_search is not None
    (store_id,) = made.tool_resources.file_search.vector_store_ids or []
    assert (await sdk.vector_stores.retrieve(store_id)).file_counts.completed == 1

    run = await asked(sdk, made.id, QUESTION)
    assert run.status == "completed"
    polled = (await sdk.beta.threads.messages.list(run.thread_id, run_id=run.id)).data[0]
    (part,) = polled.content
    assert part.type == "text"
    assert QUOTED in part.text.value
    (note,) = part.text.annotations
    assert note.type == "file_citation"
    assert note.file_citation.file_id == file_id
    assert note.start_index == part.text.value.index(QUOTED) + len(QUOTED)
    (step, _) = (
        await sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id, order="asc")
    ).data
    assert step.step_details.type == "tool_calls"
    (call,) = step.step_details.tool_calls
    assert call.type == "file_search"
    assert call.file_search.results is not None
    (result,) = call.file_search.results
    assert (result.file_id, result.file_name, result.score > 0) == (file_id, "notes.txt", True)

    # The same on the stream, replayed on our own face, and in the transcript there.
    async with sdk.beta.threads.runs.stream(
        thread_id=run.thread_id, assistant_id=made.id
    ) as stream:
        await stream.until_done()
        (told,) = await stream.get_final_messages()
    assert told.content[0].type == "text"
    assert told.content[0].text.annotations == part.text.annotations
    v1 = shared.api_urls[0] + f"/v1/sessions/{run.thread_id}"
    headers = {"Authorization": f"Bearer {sdk.api_key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        replayed = (await http.get(f"{v1}/runs/{run.id}/events")).text
        message = (await http.get(f"{v1}/messages/{polled.id}")).json()
    assert upstream_file not in replayed
    blocks = blocks_of(replayed)
    steps = [json.loads(block.data)["step"] for block in blocks if block.event == "run.step"]
    assert [(step["kind"], step["status"]) for step in steps] == [
        ("file_search", "in_progress"),
        ("file_search", "completed"),
    ]
    assert steps[1]["details"]["results"][0]["file_id"] == file_id
    (whole,) = [json.loads(b.data) for b in blocks if b.event == "message.completed"]
    assert whole["message"] == message
    kept = message["content"][0]["annotations"]
    named = [(each["type"], each["file_id"], each["filename"]) for each in kept]
    assert named == [("file_citation", file_id, "notes.txt")]


async def test_what_was_deleted_is_not_searched_any_more(sdk: AsyncOpenAI) -> None:
    store = await sdk.vector_stores.create(file_ids=[await upload(sdk)])
    resources: Any = {"file_search": {"vector_store_ids": [store.id]}}
    assistant = await tutor(sdk, tools=[{"type": "file_search"}], tool_resources=resources)
    await sdk.vector_stores.delete(store.id)
    run = await asked(sdk, assistant, "Say mitochondria")
    assert run.status == "completed"
    assert await text_of(sdk, run.thread_id, run.id) == ENGLISH.offline
    steps = await sdk.beta.threads.runs.steps.list(run.id, thread_id=run.thread_id)
    assert [step.type for step in steps.data] == ["message_creation"]


async def test_what_is_somebody_elses_is_refused(sdk: AsyncOpenAI, new_sdk: NewSdk) -> None:
    theirs = new_sdk()
    file_id = await upload(theirs)
    store = await theirs.vector_stores.create(file_ids=[file_id])
    for resources in (
        {"code_interpreter": {"file_ids": [file_id]}},
        {"file_search": {"vector_store_ids": [store.id]}},
        {"file_search": {"vector_stores": [{"file_ids": [file_id]}]}},
        {"file_search": {"vector_store_ids": ["no id at all"]}},
    ):
        with pytest.raises(openai.BadRequestError):
            await tutor(sdk, tool_resources=resources)
    with pytest.raises(openai.BadRequestError):
        await sdk.vector_stores.create(file_ids=[file_id])
    mine = await sdk.vector_stores.create()
    with pytest.raises(openai.BadRequestError):
        await sdk.vector_stores.files.create(mine.id, file_id=file_id)
    for call in (
        sdk.vector_stores.retrieve(store.id),
        sdk.vector_stores.update(store.id, name="x"),
        sdk.vector_stores.delete(store.id),
        sdk.vector_stores.files.list(store.id),
        sdk.vector_stores.files.retrieve(file_id, vector_store_id=store.id),
        sdk.vector_stores.files.delete(file_id, vector_store_id=store.id),
        sdk.vector_stores.files.create(store.id, file_id=file_id),
        sdk.vector_stores.file_batches.retrieve("vsfb_1", vector_store_id=store.id),
        sdk.vector_stores.file_batches.retrieve("vsfb_1", vector_store_id=mine.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await call
    assert (await theirs.vector_stores.retrieve(store.id)).file_counts.total == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "browser"}]}, "tools[0]"),
        ({"tools": [{"type": "code_interpreter", "x": 1}]}, "tools[0].x"),
        (
            {"tools": [{"type": "file_search", "file_search": {"max_num_results": 51}}]},
            "tools[0].file_search.max_num_results",
        ),
        (
            {"tool_resources": {"code_interpreter": {"file_ids": ["file_1"] * 21}}},
            "tool_resources.code_interpreter.file_ids",
        ),
        (
            {"tool_resources": {"file_search": {"vector_store_ids": ["vs_1", "vs_2"]}}},
            "tool_resources.file_search.vector_store_ids",
        ),
        (
            {
                "tool_resources": {
                    "file_search": {"vector_store_ids": ["vs_1"], "vector_stores": [{}]}
                }
            },
            "tool_resources.file_search",
        ),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "no name"}}},
            "response_format.json_schema.name",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "array"}},
                }
            },
            "response_format.json_schema.schema",
        ),
    ],
)
async def test_what_is_no_tool_or_form_is_refused(
    sdk: AsyncOpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await tutor(sdk, **fields)
    assert caught.value.param == param


SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "solution",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "steps": {"type": "array", "items": {"type": "string"}},
                "answer": {"type": "string"},
                "value": {"type": "integer"},
            },
            "required": ["steps", "answer", "value"],
            "additionalProperties": False,
        },
    },
}


async def test_answers_come_in_the_form_of_assistant_or_run(sdk: AsyncOpenAI) -> None:
    assistant = await tutor(sdk, response_format=SCHEMA)
    shown = await sdk.beta.assistants.retrieve(assistant)
    assert shown.to_dict()["response_format"] == SCHEMA
    run = await asked(sdk, assistant, "6*7")
    found = json.loads(await text_of(sdk, run.thread_id, run.id))
    assert set(found) == {"steps", "answer", "value"}
    assert found["value"] == 42
    varied = await asked(sdk, assistant, "6*7, in JSON", response_format={"type": "json_object"})
    assert set(json.loads(await text_of(sdk, varied.thread_id, varied.id))) == {"answer", "steps"}
    plain = await asked(sdk, assistant, "6*7", response_format={"type": "text"})
    assert not (await text_of(sdk, plain.thread_id, plain.id)).startswith("{")
    # Nobody speaks of JSON: the upstream refuses, and the run says why.
    refused = await asked(sdk, assistant, "6*7", response_format={"type": "json_object"})
    assert refused.status == "failed"


async def test_a_model_without_the_tool_is_a_failed_run_that_says_so(sdk: AsyncOpenAI) -> None:
    made = await sdk.beta.assistants.create(
        model="offline-tutor", tools=[{"type": "code_interpreter"}]
    )
    run = await asked(sdk, made.id, "1+1")
    assert run.status == "failed"
    assert run.last_error.code == "invalid_prompt"
    assert run.last_error.message == (
        "The tutor's model does not have a tool that the tutor is to use."
    )
    loose: Any = {**SCHEMA, "json_schema": {**SCHEMA["json_schema"]}}
    loose["json_schema"]["schema"] = {"type": "object", "properties": {"x": {"type": "string"}}}
    assistant = await tutor(sdk, response_format=loose)
    run = await asked(sdk, assistant, "1+1")
    assert (run.status, run.last_error.message) == (
        "failed",
        "The tutor's model can't answer in the form that is asked for.",
    )
