"""Streams as the official client and the wire see them."""

import asyncio
import json

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.contract.sandbox.conftest import MODEL, Sandbox, until

ASK = "Please solve 3x + 11 = 14"
ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def test_the_events_come_in_the_documented_order_and_numbered(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model=MODEL, input=ASK, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert [kind for kind in kinds if kind != "response.output_text.delta"] == ORDER
    assert kinds.count("response.output_text.delta") > 3
    assert kinds.index("response.output_text.delta") == 4
    assert kinds[-5] == "response.output_text.delta"


async def test_deltas_done_item_and_response_agree(client: AsyncOpenAI) -> None:
    deltas, done = [], ""
    async for event in await client.responses.create(model=MODEL, input=ASK, stream=True):
        if event.type == "response.output_text.delta":
            deltas.append(event.delta)
        elif event.type == "response.output_text.done":
            done = event.text
        elif event.type == "response.completed":
            final = event.response
    assert "".join(deltas) == done == final.output_text
    assert ASK in done
    assert await client.responses.retrieve(final.id) == final


async def test_usage_is_detailed_and_adds_up(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input=ASK)
    assert made.usage is not None
    assert made.usage.input_tokens > 0
    assert made.usage.output_tokens > 3
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    assert made.usage.input_tokens_details.cached_tokens == 0
    assert made.usage.output_tokens_details.reasoning_tokens == 0


async def test_an_input_is_counted_without_being_answered(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    short = await client.responses.input_tokens.count(model=MODEL, input=ASK)
    long = await client.responses.input_tokens.count(model=MODEL, input=ASK * 2)
    assert 0 < short.input_tokens < long.input_tokens
    assert (await sandbox.stats())["generations"] == 0


async def test_the_wire_has_no_ids_and_repeats_the_type(sandbox: Sandbox) -> None:
    reading = await sandbox.read(model=MODEL, input=ASK, stream=True)
    assert reading.content_type.startswith("text/event-stream")
    assert reading.error is None
    assert not any(
        line.startswith(b"id:") for event in reading.events for line in event.raw.split(b"\n")
    )
    assert all(event.data["type"] == event.name for event in reading.events)


@pytest.mark.parametrize(
    ("options", "padded"), [({}, True), ({"include_obfuscation": False}, False)]
)
async def test_deltas_are_padded_unless_declined(
    sandbox: Sandbox, options: dict[str, bool], *, padded: bool
) -> None:
    reading = await sandbox.read(model=MODEL, input=ASK, stream=True, stream_options=options)
    deltas = [event for event in reading.events if event.name.endswith(".delta")]
    assert deltas
    assert all(("obfuscation" in event.data) is padded for event in deltas)


async def test_the_pace_is_kept(sandbox: Sandbox) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 20})
    reading = await sandbox.read(model=MODEL, input=ASK, stream=True)
    deltas = sum(event.name == "response.output_text.delta" for event in reading.events)
    assert deltas / 20 * 0.9 < reading.seconds < deltas / 20 + 1.5


async def test_a_full_budget_of_tokens_ends_incomplete(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(
        model=MODEL, input=ASK, stream=True, max_output_tokens=16
    )
    events = [event async for event in stream]
    last = events[-1]
    if last.type == "response.completed":
        pytest.fail(f"16 tokens were enough: {last.response.output_text}")
    assert last.type == "response.incomplete"
    assert last.response.status == "incomplete"
    assert last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 16
    assert last.response.output[0].status == "incomplete"  # type: ignore[union-attr]
    assert last.response.output_text


async def test_closing_a_foreground_stream_undoes_it(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 5})
    conversation = await client.conversations.create()
    stream = await client.responses.create(
        model=MODEL, input=ASK, stream=True, conversation=conversation.id
    )
    created = await anext(stream)
    assert created.type == "response.created"
    await stream.close()
    await until(lambda: is_idle(sandbox))
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(created.response.id)
    items = await client.conversations.items.list(conversation.id)
    assert items.data == []
    await sandbox.admin("POST", "pace", {"tokens_per_second": 0})
    again = await client.responses.create(model=MODEL, input=ASK, conversation=conversation.id)
    assert again.status == "completed"


async def test_only_a_finished_turn_is_in_the_conversation(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 100})
    conversation = await client.conversations.create()
    stream = await client.responses.create(
        model=MODEL, input=ASK, stream=True, conversation={"id": conversation.id}
    )
    during = []
    async for event in stream:
        if event.type == "response.output_text.delta" and not during:
            page = await client.conversations.items.list(conversation.id)
            during.append(len(page.data))
    after = await client.conversations.items.list(conversation.id, order="asc")
    assert during == [0]
    assert [item.role for item in after.data] == ["user", "assistant"]  # type: ignore[union-attr]


async def test_a_response_continues_another_and_remembers(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input=ASK)
    second = await client.responses.create(
        model=MODEL, input="Please explain in detail", previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    assert ASK in second.output_text
    assert "in 3 turns" in second.output_text
    pages = client.responses.input_items.list(second.id, limit=2, order="asc")
    given = [item async for item in pages]
    assert [item.role for item in given] == ["user", "assistant", "user"]  # type: ignore[union-attr]


async def test_the_stream_closes_by_itself_for_a_plain_reader(sandbox: Sandbox) -> None:
    reading = await sandbox.read(model=MODEL, input=ASK, stream=True)
    assert reading.names[-1] == "response.completed"

    async def is_closed() -> bool:
        return bool((await sandbox.stats())["open_streams"] == 0)

    # A moment after its last byte.
    await until(is_closed)


async def test_what_is_not_stored_is_gone_at_its_end(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input=ASK, store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)


async def test_a_deleted_response_is_gone(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input=ASK)
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as caught:
        await client.responses.retrieve(made.id)
    assert made.id in caught.value.message


async def test_many_streams_at_once_each_get_their_own_text(sandbox: Sandbox) -> None:
    asks = [f"Solve x + {n} = {2 * n}" for n in range(10, 30)]
    limits = httpx2.Limits(max_connections=len(asks))
    async with httpx2.AsyncClient(headers=sandbox.http.headers, limits=limits) as http:
        many = Sandbox(sandbox.port, http)
        readings = await asyncio.gather(
            *(many.read(model=MODEL, input=ask, stream=True) for ask in asks)
        )
    for n, reading in zip(range(10, 30), readings, strict=True):
        final = json.loads(reading.events[-1].raw.split(b"data: ")[1])["response"]
        assert str(n) in reading.text
        assert final["output"][0]["content"][0]["text"] == reading.text


async def is_idle(sandbox: Sandbox) -> bool:
    return not (await sandbox.stats())["open_streams"]
