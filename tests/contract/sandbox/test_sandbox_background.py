"""Background responses: polled, resumed by a cursor, cancelled."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from app.sandbox.config import SandboxConfig
from tests.contract.sandbox.conftest import KEY, MODEL, Sandbox, serving

ASK = "Please solve 3x + 11 = 14"


async def test_it_goes_on_without_a_reader_and_is_resumed_after_a_cursor(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 50})
    conversation = await client.conversations.create()
    stream = await client.responses.create(
        model=MODEL, input=ASK, background=True, stream=True, conversation=conversation.id
    )
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    assert [event.type for event in seen[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    resumed = await client.responses.retrieve(
        seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number
    )
    rest = [event async for event in resumed]
    numbers = [event.sequence_number for event in [*seen, *rest]]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].type == "response.completed"
    text = "".join(
        event.delta for event in [*seen, *rest] if event.type == "response.output_text.delta"
    )
    assert text == rest[-1].response.output_text
    items = await client.conversations.items.list(conversation.id)
    assert len(items.data) == 2


async def test_it_is_replayed_whole_without_a_cursor(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input=ASK, background=True, stream=True)
    first = [event async for event in stream]
    assert first[0].type == "response.created"
    again = await client.responses.retrieve(first[0].response.id, stream=True)
    assert [event async for event in again] == first


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_replay_is_padded_unless_declined(client: AsyncOpenAI, *, wanted: bool) -> None:
    stream = await client.responses.create(model=MODEL, input=ASK, background=True, stream=True)
    first = [event async for event in stream]
    assert first[0].type == "response.created"
    again = await client.responses.retrieve(
        first[0].response.id, stream=True, include_obfuscation=wanted
    )
    replayed = [event async for event in again]
    deltas = [event for event in replayed if event.type == "response.output_text.delta"]
    assert deltas
    assert all(("obfuscation" in (event.model_extra or {})) is wanted for event in deltas)
    assert replayed[-1] == first[-1]


async def test_deleting_it_stops_it_and_frees_its_conversation(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 5, "text": ASK})
    conversation = await client.conversations.create()
    stream = await client.responses.create(
        model=MODEL, input=ASK, background=True, stream=True, conversation=conversation.id
    )
    created = await anext(stream)
    assert created.type == "response.created"
    await client.responses.delete(created.response.id)
    async with asyncio.timeout(2):
        rest = [event.type async for event in stream]
    assert "response.completed" not in rest
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(created.response.id)
    free = await client.responses.create(model=MODEL, input="1+1", conversation=conversation.id)
    assert "in 1 turns" in free.output_text


async def test_it_is_queued_then_polled_to_its_end(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 50})
    made = await client.responses.create(model=MODEL, input=ASK, background=True)
    assert made.status == "queued"
    assert made.output == []
    statuses = [made.status]
    async with asyncio.timeout(10):
        while statuses[-1] in {"queued", "in_progress"}:
            polled = await client.responses.retrieve(made.id)
            if polled.status != statuses[-1]:
                statuses.append(polled.status)
            await asyncio.sleep(0.01)
    assert statuses[-2:] == ["in_progress", "completed"]
    assert polled.output_text


async def test_cancelling_stops_it_and_may_be_repeated(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 5})
    conversation = await client.conversations.create()
    stream = await client.responses.create(
        model=MODEL, input=ASK, background=True, stream=True, conversation=conversation.id
    )
    created = await anext(stream)
    assert created.type == "response.created"
    for _ in range(2):
        cancelled = await client.responses.cancel(created.response.id)
        assert cancelled.status == "cancelled"
    async with asyncio.timeout(2):
        rest = [event.type async for event in stream]
    assert "response.completed" not in rest
    assert (await client.responses.retrieve(created.response.id)).status == "cancelled"
    assert (await client.conversations.items.list(conversation.id)).data == []
    await sandbox.admin("POST", "pace", {"tokens_per_second": 0})
    free = await client.responses.create(model=MODEL, input="1+1", conversation=conversation.id)
    assert free.status == "completed"


async def test_cancelling_too_late_leaves_it_completed(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input=ASK, background=True, stream=True)
    events = [event async for event in stream]
    assert events[0].type == "response.created"
    late = await client.responses.cancel(events[0].response.id)
    assert late.status == "completed"
    assert late.output_text


async def test_a_foreground_response_is_neither_cancelled_nor_resumed(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input=ASK)
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.retrieve(made.id, stream=True)
    assert (
        "This response cannot be streamed because it was not created with background=true"
        in caught.value.message
    )


async def test_one_created_without_a_stream_is_not_resumed(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input=ASK, background=True)
    with pytest.raises(openai.BadRequestError, match="cannot be streamed"):
        await client.responses.retrieve(made.id, stream=True)


@pytest.fixture(scope="module")
def hasty_port() -> Iterator[int]:
    with serving(SandboxConfig(tokens_per_second=0, resume_window_s=0)) as found:
        yield found


@pytest.fixture
async def hasty(hasty_port: int) -> AsyncIterator[Sandbox]:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        yield Sandbox(hasty_port, http)


async def test_after_the_window_it_is_not_resumed_but_still_read(hasty: Sandbox) -> None:
    made = await hasty.read(model=MODEL, input=ASK, stream=True, background=True)
    path = f"/v1/responses/{made.events[0].data['response']['id']}"
    late = await hasty.read(f"{path}?stream=true&starting_after=3")
    assert late.status == 400
    assert b"can no longer be streamed because it is more than 5 minutes old" in late.body
    polled = await hasty.http.get(hasty.url + path)
    assert polled.json()["status"] == "completed"
