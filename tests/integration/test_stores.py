"""Vector stores: searched by a tenant's tutors, refused to strangers, gone with their users."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.conftest import NewDatabase
from tests.integration.compat.conftest import sdk_at
from tests.integration.test_erasure import delete_user, emptied, make_due
from tests.integration.test_files import send
from tests.integration.test_pictures import part, show
from tests.stack import Client, Stack, running, until

SCOPE = "assistants:write"
TENANT = f"tenant-{uuid.uuid4().hex[:8]}"
NOTES = b"The mitochondria is the powerhouse of the cell."
ASKED = "What does the notebook call mitochondria?"


@pytest.fixture
async def stack(new_database: NewDatabase, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(await new_database(), tmp_path / "stores") as found:
        yield found


@pytest.fixture
async def user(stack: Stack) -> AsyncIterator[tuple[Client, AsyncOpenAI]]:
    """One user, on both faces."""
    client = stack.client(scope=SCOPE, tenant=TENANT)
    sdk = sdk_at(stack.api_urls[0])
    sdk.api_key = client.token
    yield client, sdk
    await sdk.close()


def tutor(store_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": "gpt-4o-mini",
        "tools": [{"type": "file_search"}],
        "tool_resources": {"file_search": {"vector_store_ids": [store_id]}},
        **fields,
    }


async def test_a_tutor_of_the_tenant_searches_its_writers_store(
    stack: Stack, user: tuple[Client, AsyncOpenAI]
) -> None:
    writer, sdk = user
    file_id = (await send(writer, "notes.txt", NOTES))["id"]
    store = await sdk.vector_stores.create(file_ids=[file_id])
    made = await writer.call("POST", "/v1/assistants", 201, json=tutor(store.id))
    assert made["tool_resources"] == {"file_search": {"vector_store_ids": [store.id]}}
    student = stack.client(tenant=TENANT)
    session = await student.open_session(assistant_id=made["id"])
    run, text = await student.ask(session, ASKED)
    assert run["status"] == "completed"
    assert NOTES.decode() in text
    path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
    (note,) = (await student.call("GET", path, 200))["content"][0]["annotations"]
    assert (note["type"], note["file_id"]) == ("file_citation", file_id)
    # The passages are the tutor's; the file is its writer's.
    stream = await student.stream(f"/v1/sessions/{session}/runs/{run['id']}/events")
    assert '"kind":"file_search"' in stream
    assert '"text":"The mitochondria' not in stream
    await student.call("GET", f"/v1/files/{file_id}", 404)
    shown = await student.call("GET", f"/v1/assistants/{made['id']}", 200)
    assert not {"tools", "tool_resources"} & shown.keys()

    stranger = stack.client(scope=SCOPE, tenant=TENANT)
    for resources in (
        {"file_search": {"vector_store_ids": [store.id]}},
        {"code_interpreter": {"file_ids": [file_id]}},
    ):
        body = tutor(store.id, tool_resources=resources)
        refused = await stranger.call("POST", "/v1/assistants", 422, json=body)
        assert refused["code"] == "resource_refused"
        path = f"/v1/assistants/{made['id']}"
        await stranger.call("PATCH", path, 422, json={"tool_resources": resources})
    changed = await stranger.call("PATCH", path, 200, json={"name": "Other"})
    assert changed["tool_resources"] == made["tool_resources"]


async def test_a_file_outlives_its_session_where_a_tutor_works_with_it(
    user: tuple[Client, AsyncOpenAI],
) -> None:
    client, sdk = user
    searched, read, neither = [
        (await send(client, f"{name}.txt", NOTES + name.encode()))["id"] for name in "abc"
    ]
    store = await sdk.vector_stores.create(file_ids=[searched])
    resources = {"code_interpreter": {"file_ids": [read]}}
    await client.call(
        "POST", "/v1/assistants", 201, json=tutor(store.id, tool_resources=resources)
    )
    session = await client.open_session()
    await show(
        client, session, *(part("file", {"id": each}) for each in (searched, read, neither))
    )
    await client.call("DELETE", f"/v1/sessions/{session}", 204)
    listed = (await client.call("GET", "/v1/files", 200))["data"]
    assert {each["id"] for each in listed} == {searched, read}
    await client.call("DELETE", f"/v1/files/{searched}", 204)
    assert (await sdk.vector_stores.retrieve(store.id)).file_counts.total == 0


async def test_a_store_goes_with_its_user(stack: Stack) -> None:
    sdk = sdk_at(stack.api_urls[0], "leaver")
    file = await sdk.files.create(file=("a.txt", NOTES), purpose="assistants")
    await sdk.vector_stores.create(name="Secret name", file_ids=[file.id])
    assert (await stack.admin("GET", "stats"))["stores"] == 1
    await stack.admin(
        "POST",
        "faults",
        {"method": "DELETE", "path": "/v1/vector_stores/*", "times": 1,
         "action": {"type": "status", "status": 503}},
    )  # fmt: skip
    status, _said = await delete_user(stack, "leaver")
    assert status == 0

    async def is_gone() -> bool:
        await make_due(stack)
        return await emptied(stack)

    await until(is_gone, within=60)
    assert await stack.fetchval("SELECT count(*) FROM vector_stores") == 0
    await sdk.close()


async def test_a_store_whose_making_was_not_heard_of_is_found_and_deleted(
    stack: Stack, user: tuple[Client, AsyncOpenAI]
) -> None:
    _, sdk = user
    await stack.admin(
        "POST",
        "faults",
        {"method": "POST", "path": "/v1/vector_stores",
         "action": {"type": "status", "status": 502, "after_work": True}},
    )  # fmt: skip
    with pytest.raises(openai.APIStatusError):
        await sdk.vector_stores.create(name="x")
    assert (await sdk.vector_stores.list()).data == []
    assert (await stack.admin("GET", "stats"))["stores"] == 1

    async def is_gone() -> bool:
        await make_due(stack)
        return await emptied(stack)

    await until(is_gone, within=60)
