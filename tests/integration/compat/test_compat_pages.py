"""Pagination as the wire has it, both ways, and by the SDK's own iteration."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.integration.compat.conftest import tutor


@pytest.fixture
async def thread_id(sdk: AsyncOpenAI) -> str:
    thread = await sdk.beta.threads.create(
        messages=[{"role": "user", "content": f"message {n}"} for n in range(7)]
    )
    return thread.id


def texts(messages: Any) -> list[int]:
    return [int(message.content[0].text.value.split()[1]) for message in messages]


async def test_the_newest_come_first_unless_asked_for_otherwise(
    sdk: AsyncOpenAI, thread_id: str
) -> None:
    newest = await sdk.beta.threads.messages.list(thread_id)
    assert texts(newest.data) == [6, 5, 4, 3, 2, 1, 0]
    oldest = await sdk.beta.threads.messages.list(thread_id, order="asc", limit=3)
    assert texts(oldest.data) == [0, 1, 2]
    assert oldest.has_more
    raw = await sdk.beta.threads.messages.with_raw_response.list(thread_id, limit=3)
    body: Any = raw.http_response.json()
    assert body["object"] == "list"
    assert body["first_id"] == body["data"][0]["id"]
    assert body["last_id"] == body["data"][2]["id"]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_the_sdk_pages_through_all(sdk: AsyncOpenAI, thread_id: str, order: Any) -> None:
    found = [m async for m in sdk.beta.threads.messages.list(thread_id, order=order, limit=2)]
    assert texts(found) == sorted(range(7), reverse=order == "desc")


async def test_after_and_before_are_the_two_sides_of_an_item(
    sdk: AsyncOpenAI, thread_id: str
) -> None:
    everything = (await sdk.beta.threads.messages.list(thread_id, order="asc")).data
    middle = everything[3].id
    after = await sdk.beta.threads.messages.list(thread_id, order="asc", after=middle)
    before = await sdk.beta.threads.messages.list(thread_id, order="asc", before=middle)
    assert (texts(after.data), texts(before.data)) == ([4, 5, 6], [0, 1, 2])
    nearest = await sdk.beta.threads.messages.list(thread_id, order="asc", before=middle, limit=2)
    assert (texts(nearest.data), nearest.has_more) == ([1, 2], True)


async def test_assistants_are_paged_too(sdk: AsyncOpenAI) -> None:
    made = [await tutor(sdk, name=f"tutor {n}") for n in range(3)]
    found = [item.id async for item in sdk.beta.assistants.list(limit=1, order="desc")]
    assert found[:3] == made[::-1]
    backwards = await sdk.beta.assistants.list(before=made[0], limit=2)
    assert [item.id for item in backwards.data] == [made[2], made[1]]


async def test_an_end_of_a_list_is_empty_and_says_so(sdk: AsyncOpenAI, thread_id: str) -> None:
    last = (await sdk.beta.threads.messages.list(thread_id)).data[-1]
    page = await sdk.beta.threads.messages.list(thread_id, after=last.id)
    assert (page.data, page.has_more) == ([], False)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 101}, {"order": "random"}])
async def test_a_page_that_can_not_be_is_refused(
    sdk: AsyncOpenAI, thread_id: str, wrong: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.beta.threads.messages.list(thread_id, **wrong)
    assert refused.value.param == next(iter(wrong))


async def test_a_cursor_of_another_list_is_refused(sdk: AsyncOpenAI, thread_id: str) -> None:
    other = await sdk.beta.threads.create(messages=[{"role": "user", "content": "elsewhere"}])
    foreign = (await sdk.beta.threads.messages.list(other.id)).data[0].id
    with pytest.raises(openai.NotFoundError):
        await sdk.beta.threads.messages.list(thread_id, after=foreign)
    with pytest.raises(openai.BadRequestError):
        await sdk.beta.threads.messages.list(thread_id, after=foreign, before=foreign)
