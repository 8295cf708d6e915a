"""Refusals: always in the envelope, always naming what is wrong."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.contract.sandbox.conftest import MODEL, Sandbox


@pytest.mark.parametrize(
    "header", [{}, {"authorization": "Bearer"}, {"authorization": "Basic a2V5"}]
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/responses/resp_x", "/v1/nowhere"])
async def test_without_a_key_nothing_is_served(
    sandbox: Sandbox, header: dict[str, str], path: str
) -> None:
    del sandbox.http.headers["authorization"]
    answer = await sandbox.http.get(sandbox.url + path, headers=header)
    assert answer.status_code == 401
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert (await sandbox.http.get(f"{sandbox.url}/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "song"}]}]}, "input[0].content[0].type"),
        ({"conversation": 5}, "conversation"),
        ({"conversation": "conv_x", "previous_response_id": "resp_x"}, "previous_response_id"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"stream": "yes"}, "stream"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_a_malformed_request_is_refused_by_name(
    sandbox: Sandbox, change: dict[str, Any], param: str
) -> None:
    body = {"model": MODEL, "input": "x"} | change
    answer = await sandbox.http.post(f"{sandbox.url}/v1/responses", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_object_is_refused(sandbox: Sandbox, body: bytes) -> None:
    answer = await sandbox.http.post(f"{sandbox.url}/v1/responses", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/responses/resp_none", 404),
        ("DELETE", "/v1/responses/resp_none", 404),
        ("POST", "/v1/responses/resp_none/cancel", 404),
        ("GET", "/v1/responses/resp_none/input_items", 404),
        ("GET", "/v1/conversations/conv_none/items/msg_none", 404),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/nowhere", 404),
        ("GET", "/v1/responses", 405),
    ],
)
async def test_what_is_not_there_is_said_in_the_envelope(
    sandbox: Sandbox, method: str, path: str, status: int
) -> None:
    answer = await sandbox.http.request(method, sandbox.url + path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_models_are_listed_and_read(client: AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]
    assert listed
    assert await client.models.retrieve(listed[0].id) == listed[0]


async def test_messages_may_be_strings_or_parts_of_every_role(client: AsyncOpenAI) -> None:
    given: Any = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "first"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "yes?", "annotations": []}],
        },
        {"role": "user", "content": "second"},
    ]
    made = await client.responses.create(
        model=MODEL, input=given, instructions="Teach.", metadata={"run": "r1"}
    )
    assert "in 3 turns" in made.output_text
    assert "first / second" in made.output_text
    assert made.instructions == "Teach."
    assert made.metadata == {"run": "r1"}


async def test_a_tutor_that_breaks_down_ends_the_response_as_failed(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    made = await client.responses.create(
        model=MODEL, input="break down", conversation=conversation.id
    )
    assert made.status == "failed"
    assert made.error is not None
    assert made.error.code == "server_error"
    again = await client.responses.create(model=MODEL, input="go", conversation=conversation.id)
    assert "in 1 turns" in again.output_text


async def test_the_counters_tell_what_happened(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    first = await client.conversations.create()
    await client.conversations.create()
    await client.responses.create(model=MODEL, input="x", conversation=first.id)
    await client.conversations.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model=MODEL, input="x", conversation=first.id)
    found = await sandbox.stats()
    assert found["response_posts"] == 2
    assert found["generations_completed"] == 1
    assert found["conversations_made"] == 2
    assert found["conversations"] == 1
    assert found["open_streams"] == 0


async def test_a_reset_may_spare_faults(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "html"}, nth=99)
    await sandbox.admin("POST", "reset", {"keep": ["faults"]})
    assert len((await sandbox.admin("GET", "faults"))["rules"]) == 1
    await sandbox.admin("POST", "reset")
    assert (await sandbox.admin("GET", "faults"))["rules"] == []
