"""Conversations: their items, pages and lock."""

import asyncio
from collections.abc import Awaitable, Callable

import openai
import pytest
from openai import AsyncOpenAI

from tests.contract.sandbox.conftest import MODEL, Sandbox


def message(text: str, role: str = "user") -> dict[str, str]:
    return {"type": "message", "role": role, "content": text}


async def test_a_conversation_is_made_read_changed_and_deleted(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(metadata={"session": "s1"})
    assert made.metadata == {"session": "s1"}
    changed = await client.conversations.update(made.id, metadata={"session": "s2"})
    assert changed.metadata == {"session": "s2"}
    assert await client.conversations.retrieve(made.id) == changed
    gone = await client.conversations.delete(made.id)
    assert gone.deleted is True
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: client.conversations.retrieve(made.id),
        lambda: client.conversations.items.list(made.id),
        lambda: client.conversations.delete(made.id),
        lambda: client.responses.create(model=MODEL, input="1+1", conversation=made.id),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as caught:
            await call()
        assert caught.value.body == {
            "message": f"Conversation with id '{made.id}' not found.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }


async def test_the_items_of_a_deleted_conversation_are_kept(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    made = await client.conversations.create(items=[message("hello")])  # type: ignore[list-item]
    await client.conversations.delete(made.id)
    assert (await sandbox.stats())["items_of_deleted_conversations"] == 1


async def test_items_are_added_read_and_deleted(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[message("one")])  # type: ignore[list-item]
    added = await client.conversations.items.create(
        made.id,
        items=[message("two"), message("three", "assistant"), message("four", "system")],  # type: ignore[list-item]
    )
    assert added.first_id == added.data[0].id
    assert added.last_id == added.data[-1].id
    second = added.data[0]
    got = await client.conversations.items.retrieve(second.id, conversation_id=made.id)
    assert got == second
    assert got.content[0].text == "two"  # type: ignore[union-attr]
    back = await client.conversations.items.delete(second.id, conversation_id=made.id)
    assert back.id == made.id
    left = [item async for item in client.conversations.items.list(made.id, order="asc")]
    assert [item.content[0].text for item in left] == ["one", "three", "four"]  # type: ignore[union-attr]


async def test_no_call_adds_more_than_twenty_items(client: AsyncOpenAI) -> None:
    many = [message(str(n)) for n in range(21)]
    made = await client.conversations.create(items=many[:20])  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError):
        await client.conversations.create(items=many)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError):
        await client.conversations.items.create(made.id, items=many)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_the_client_pages_through_every_item_once(
    client: AsyncOpenAI, order: str, limit: int
) -> None:
    made = await client.conversations.create(
        items=[message(str(n)) for n in range(20)]  # type: ignore[misc]
    )
    await client.conversations.items.create(
        made.id,
        items=[message(str(n)) for n in range(20, 25)],  # type: ignore[misc]
    )
    pages = client.conversations.items.list(
        made.id,
        order=order,  # type: ignore[arg-type]
        limit=limit,
        include=["message.output_text.logprobs"],
    )
    seen = [item.content[0].text async for item in pages]  # type: ignore[union-attr]
    expected = [str(n) for n in range(25)]
    assert seen == (expected if order == "asc" else expected[::-1])


async def test_a_page_says_where_it_begins_and_ends(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    made = await client.conversations.create(
        items=[message(str(n)) for n in range(3)]  # type: ignore[misc]
    )
    url = f"{sandbox.url}/v1/conversations/{made.id}/items"
    page = (await sandbox.http.get(url, params={"limit": 2, "include": "x"})).json()
    assert page["object"] == "list"
    assert page["has_more"] is True
    assert [page["first_id"], page["last_id"]] == [item["id"] for item in page["data"]]
    assert [item["content"][0]["text"] for item in page["data"]] == ["2", "1"]
    rest = (await sandbox.http.get(url, params={"after": page["last_id"]})).json()
    assert rest["has_more"] is False
    assert [item["content"][0]["text"] for item in rest["data"]] == ["0"]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"order": "up"}])
async def test_a_page_out_of_range_is_refused(
    sandbox: Sandbox, client: AsyncOpenAI, query: dict[str, str]
) -> None:
    made = await client.conversations.create()
    url = f"{sandbox.url}/v1/conversations/{made.id}/items"
    assert (await sandbox.http.get(url, params=query)).status_code == 400


@pytest.mark.parametrize("background", [False, True])
async def test_a_running_response_locks_its_conversation(
    sandbox: Sandbox, client: AsyncOpenAI, *, background: bool
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 30})
    made = await client.conversations.create()
    stream = await client.responses.create(
        model=MODEL, input="3 + 4", conversation=made.id, stream=True, background=background
    )
    await anext(stream)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model=MODEL, input="1 + 1", conversation=made.id)
    assert caught.value.code == "conversation_locked"
    assert caught.value.param == "conversation"
    events = [event async for event in stream]
    assert events[-1].type == "response.completed"
    after = await client.responses.create(model=MODEL, input="1 + 1", conversation=made.id)
    assert after.status == "completed"


async def test_of_two_creates_at_once_one_is_refused(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 100})
    made = await client.conversations.create()
    outcomes = await asyncio.gather(
        *(
            client.responses.create(model=MODEL, input="2 + 2", conversation=made.id)
            for _ in range(5)
        ),
        return_exceptions=True,
    )
    refused = [each for each in outcomes if isinstance(each, openai.BadRequestError)]
    assert [each.code for each in refused] == ["conversation_locked"] * 4
    items = await client.conversations.items.list(made.id)
    assert len(items.data) == 2


async def test_a_restart_forgets_every_conversation(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    made = await client.conversations.create()
    await sandbox.admin("POST", "reset")
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(made.id)
    assert (await sandbox.stats())["conversations"] == 0


@pytest.mark.parametrize("background", [False, True])
async def test_a_restart_ends_what_runs(
    sandbox: Sandbox, client: AsyncOpenAI, *, background: bool
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 5})
    made = await client.conversations.create()
    stream = await client.responses.create(
        model=MODEL, input="3 + 4", conversation=made.id, stream=True, background=background
    )
    await anext(stream)
    await sandbox.admin("POST", "reset")
    async with asyncio.timeout(2):
        rest = [event.type async for event in stream]
    assert "response.completed" not in rest
    found = await sandbox.stats()
    assert found["running"] == found["open_streams"] == found["generations_completed"] == 0


async def test_an_item_that_is_there_already_is_refused(client: AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[message("one")])  # type: ignore[list-item]
    items = await client.conversations.items.list(made.id)
    again = items.data[0].model_dump(mode="json", exclude_none=True)
    with pytest.raises(openai.BadRequestError, match="Duplicate item"):
        await client.responses.create(model=MODEL, input=[again], conversation=made.id)  # type: ignore[list-item]
