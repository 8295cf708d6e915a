"""Tools that the upstream runs itself, vector stores, and answers in a form."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.contract.sandbox.conftest import MODEL, Sandbox

NOTES = (
    "The quadratic formula gives both roots at once.\n\n"
    "Photosynthesis turns light into sugar.\n\n"
    "판별식이 음수이면 실근이 없다."
).encode()
INTERPRETER: Any = {"type": "code_interpreter", "container": {"type": "auto"}}


async def store_with(client: AsyncOpenAI, *contents: bytes) -> tuple[str, list[str]]:
    files = [
        await client.files.create(file=(f"notes-{number}.txt", content), purpose="assistants")
        for number, content in enumerate(contents)
    ]
    made = await client.vector_stores.create(name="notes", file_ids=[file.id for file in files])
    return made.id, [file.id for file in files]


async def test_a_store_is_made_filled_polled_and_deleted(client: AsyncOpenAI) -> None:
    file = await client.files.create(file=("a.txt", NOTES), purpose="assistants")
    made = await client.vector_stores.create(
        name="n", file_ids=[file.id], metadata={"k": "v"},
        expires_after={"anchor": "last_active_at", "days": 7},
    )  # fmt: skip
    assert (made.status, made.file_counts.in_progress, made.file_counts.total) == (
        "in_progress", 1, 1,
    )  # fmt: skip
    ready = await client.vector_stores.retrieve(made.id)
    assert (ready.status, ready.usage_bytes, ready.metadata) == (
        "completed", len(NOTES), {"k": "v"},
    )  # fmt: skip
    assert ready.expires_at == ready.last_active_at + 7 * 86_400  # type: ignore[operator]
    picture = await client.files.create(file=("b.bin", b"\x89PNG\xff"), purpose="assistants")
    failed = await client.vector_stores.files.create_and_poll(picture.id, vector_store_id=made.id)
    assert failed.status == "failed"
    assert failed.last_error is not None
    assert failed.last_error.code == "unsupported_file"
    sent = await client.vector_stores.files.upload_and_poll(
        vector_store_id=made.id, file=("c.txt", b"text")
    )
    assert sent.status == "completed"
    batch = await client.vector_stores.file_batches.upload_and_poll(
        made.id, files=[("d.txt", b"d"), ("e.txt", b"e")]
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 2)
    listed = [each async for each in client.vector_stores.files.list(made.id, limit=2)]
    assert len(listed) == 5
    in_batch = await client.vector_stores.file_batches.list_files(
        batch.id, vector_store_id=made.id
    )
    assert len(in_batch.data) == 2
    assert (await client.vector_stores.update(made.id, name="other")).name == "other"
    assert [store.id async for store in client.vector_stores.list()] == [made.id]
    await client.vector_stores.files.delete(sent.id, vector_store_id=made.id)
    assert (await client.files.retrieve(sent.id)).id == sent.id
    await client.files.delete(file.id)
    assert (await client.vector_stores.retrieve(made.id)).file_counts.total == 3
    found = await client.vector_stores.search(made.id, query="nothing like it")
    assert found.data == []
    assert (await client.vector_stores.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.retrieve(made.id)


async def test_code_is_written_run_and_told_in_order(client: AsyncOpenAI) -> None:
    events = [
        event
        async for event in await client.responses.create(
            model=MODEL, input="What is 12*34 + 5?", tools=[INTERPRETER], stream=True,
            include=["code_interpreter_call.outputs"],
        )
    ]  # fmt: skip
    names = [event.type for event in events]
    told = [name for name in names if "code_interpreter" in name]
    once = list(dict.fromkeys(told))
    assert once == [
        "response.code_interpreter_call.in_progress",
        "response.code_interpreter_call_code.delta",
        "response.code_interpreter_call_code.done",
        "response.code_interpreter_call.interpreting",
        "response.code_interpreter_call.completed",
    ]
    assert names.index(told[0]) == names.index("response.output_item.added") + 1
    assert names.index(told[-1]) + 1 == names.index("response.output_item.done")
    last = events[-1]
    assert last.type == "response.completed"
    call, message = last.response.output
    assert call.type == "code_interpreter_call"
    assert message.type == "message"
    assert call.code == "print(12 * 34 + 5)"
    assert call.outputs is not None
    assert call.outputs[0].model_dump() == {"type": "logs", "logs": "413\n"}
    written = "".join(
        event.delta
        for event in events
        if event.type == "response.code_interpreter_call_code.delta"
    )
    assert written == call.code


@pytest.mark.parametrize(
    ("asked", "code", "printed"),
    [
        ("2(3+4)", "print(2*(3 + 4))", "14\n"),
        ("3/4 + 1/4*2", 'import sympy\nprint(sympy.sympify("3/4 + 1/4 * 2"))', "5/4\n"),
        ("sqrt(2)*3", 'import sympy\nprint(sympy.sympify("sqrt(2) * 3"))', "3*sqrt(2)\n"),
        ("2^10", "print(2**10)", "1024\n"),
    ],
)
async def test_the_code_would_print_what_is_said(
    client: AsyncOpenAI, asked: str, code: str, printed: str
) -> None:
    answer = await client.responses.create(
        model=MODEL, input=f"compute `{asked}`", tools=[INTERPRETER],
        include=["code_interpreter_call.outputs"],
    )  # fmt: skip
    call = answer.output[0]
    assert call.type == "code_interpreter_call"
    assert call.outputs is not None
    assert (call.code, call.outputs[0].model_dump()["logs"]) == (code, printed)
    without = await client.responses.create(
        model=MODEL, input=f"compute `{asked}`", tools=[INTERPRETER]
    )
    assert without.output[0].model_dump()["outputs"] is None


async def test_a_file_is_searched_quoted_and_cited(client: AsyncOpenAI) -> None:
    store_id, (wrong, right) = await store_with(client, b"Nothing of it here.", NOTES)
    events = [
        event
        async for event in await client.responses.create(
            model=MODEL, input="What does photosynthesis make of sugar?", stream=True,
            tools=[{"type": "file_search", "vector_store_ids": [store_id]}],
            include=["file_search_call.results"],
        )
    ]  # fmt: skip
    names = [event.type for event in events]
    assert [name for name in names if "file_search" in name] == [
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
    ]
    added = next(e for e in events if e.type == "response.output_text.annotation.added")
    assert names.index(added.type) + 1 == names.index("response.output_text.done")
    last = events[-1]
    assert last.type == "response.completed"
    call, message = last.response.output
    assert call.type == "file_search_call"
    assert message.type == "message"
    assert call.results is not None
    assert [(r.file_id, r.filename, r.text) for r in call.results] == [
        (right, "notes-1.txt", "Photosynthesis turns light into sugar.")
    ]
    part = message.content[0]
    assert part.type == "output_text"
    assert [note.to_dict() for note in part.annotations] == [added.annotation.to_dict()]  # type: ignore[union-attr]
    note = part.annotations[0]
    assert note.type == "file_citation"
    assert (note.file_id, note.filename) == (right, "notes-1.txt")
    assert part.text[: note.index].endswith("> Photosynthesis turns light into sugar.")
    assert wrong not in part.text
    nothing = await client.responses.create(
        model=MODEL,
        input="zebras?",
        tools=[{"type": "file_search", "vector_store_ids": [store_id]}],
    )
    assert nothing.output_text.startswith("I found none of your words")


async def test_tools_that_lack_what_they_need_are_refused(client: AsyncOpenAI) -> None:
    async def refused(tool: dict[str, Any], model: str = MODEL) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model=model, input="1+1", tools=[tool])  # type: ignore[list-item]
        return caught.value

    error = await refused({"type": "code_interpreter"})
    assert (error.status_code, error.param) == (400, "tools[0].container")
    gone = {"type": "auto", "file_ids": ["file-gone"]}
    assert (await refused({"type": "code_interpreter", "container": gone})).status_code == 404
    missing = await refused({"type": "file_search", "vector_store_ids": ["vs_gone"]})
    assert missing.status_code == 404
    error = await refused(INTERPRETER, "offline-tutor")
    assert (error.status_code, error.param) == (400, "tools")


class Step(BaseModel):
    explanation: str
    output: str


class Solved(BaseModel):
    steps: list[Step]
    final_answer: str
    value: int
    is_exact: bool


async def test_answers_come_in_the_form_that_is_wanted(
    client: AsyncOpenAI, sandbox: Sandbox
) -> None:
    _ = sandbox
    parsed = await client.responses.parse(model=MODEL, input="7*6", text_format=Solved)
    assert parsed.output_parsed is not None
    assert parsed.output_parsed.steps
    free = await client.responses.create(
        model=MODEL, input="7*6, as JSON", text={"format": {"type": "json_object"}}
    )
    assert set(json.loads(free.output_text)) == {"answer", "steps"}
    assert free.text is not None
    assert free.text.format is not None
    assert free.text.format.type == "json_object"
    with pytest.raises(openai.BadRequestError, match="must contain the word 'json'"):
        await client.responses.create(
            model=MODEL, input="7*6", text={"format": {"type": "json_object"}}
        )
    schema = {
        "type": "object",
        "properties": {
            "level": {"enum": ["easy", "hard"]},
            "maybe": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Short"}]},
            "three": {"type": "array", "items": {"type": "string"}, "minItems": 3},
            "always": {"const": 4},
            "small": {"type": "number", "maximum": 5},
        },
        "$defs": {"Short": {"type": "string", "maxLength": 3}},
    }
    filled = await client.responses.create(
        model=MODEL, input="7*6",
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
    )  # fmt: skip
    value = json.loads(filled.output_text)
    assert value["level"] in {"easy", "hard"}
    assert len(value["maybe"]) == 3
    assert len(value["three"]) >= 3
    assert value["always"] == 4
    assert value["small"] <= 5


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"type": "yaml"}, "text.format"),
        ({"type": "json_schema", "schema": {}}, "text.format.name"),
        ({"type": "json_schema", "name": "a b", "schema": {}}, "text.format.name"),
        ({"type": "json_schema", "name": "a"}, "text.format.schema"),
        ({"type": "json_schema", "name": "a", "schema": {"type": "array"}}, "text.format.schema"),
        (
            {
                "type": "json_schema", "name": "a", "strict": True,
                "schema": {"type": "object", "properties": {"x": {"type": "string"}}},
            },
            "text.format.schema",
        ),
    ],
)  # fmt: skip
async def test_forms_that_are_none_are_refused(client: AsyncOpenAI, form: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model=MODEL, input="json", text={"format": form})
    assert caught.value.param == param
