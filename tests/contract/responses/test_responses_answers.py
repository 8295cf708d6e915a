"""Threads and answers, as the adapter gets them and as the official client sees them."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI

from app.adapters.responses.upstream import ResponsesUpstream
from app.domain.errors import ThreadBusyError, ThreadLostError, UpstreamError
from app.domain.models import Part, PartKind, Role, RunStatus
from app.ports import Ended, Started, TextDelta, Thread, Turn
from tests.contract.responses.conftest import CONFIG, DELTA, POST, AnUpstream, ask, hear, outcome
from tests.contract.sandbox.conftest import Sandbox, until

FUNCTION = {
    "type": "function",
    "function": {
        "name": "plot",
        "description": "Draw it.",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}


async def opened(upstream: ResponsesUpstream, *turns: Turn) -> str:
    thread = await upstream.open_thread(turns)
    assert thread is not None
    assert thread.thread_id is not None
    return thread.thread_id


async def items_of(client: AsyncOpenAI, thread_id: str) -> list[Any]:
    return [each async for each in client.conversations.items.list(thread_id, order="asc")]


def said(items: list[Any]) -> list[tuple[str, str]]:
    return [(item.role, "".join(part.text for part in item.content)) for item in items]


def turns(count: int) -> list[Turn]:
    """Return turns of two parts each, student and tutor in turn."""
    roles = (Role.USER, Role.ASSISTANT)
    return [Turn(roles[n % 2], [f"turn {n}", " 몇 번째?"]) for n in range(count)]


# ---------------------------------------------------------------- answers


async def test_an_answer_is_started_grows_and_ends_with_its_account(
    sandbox: Sandbox, client: AsyncOpenAI, upstream: ResponsesUpstream
) -> None:
    thread_id = await opened(upstream)
    hearing = await hear(upstream, ask("one two three", thread_id=thread_id))
    assert isinstance(hearing.events[0], Started)
    assert {type(event) for event in hearing.events[1:]} == {TextDelta}
    assert len(hearing.events) > 5
    assert hearing.text == hearing.answer
    assert "one two three" in hearing.answer
    response = await client.responses.retrieve(hearing.response_id)
    assert response.usage is not None
    items = await items_of(client, thread_id)
    assert hearing.end == Ended(
        status=RunStatus.COMPLETED,
        content=[Part(response.output_text, PartKind.TEXT)],
        usage=hearing.end.usage,
        tail=items[-1].id,
        tool_calls=[],
    )
    assert hearing.end.usage is not None
    assert hearing.end.usage.body() == {
        "input_tokens": response.usage.input_tokens,
        "output_tokens": response.usage.output_tokens,
        "total_tokens": response.usage.total_tokens,
    }
    assert response.instructions == "Be kind."
    assert (await sandbox.stats())["response_posts"] == 1


async def test_the_next_answer_knows_the_ones_before(
    upstream: ResponsesUpstream, client: AsyncOpenAI
) -> None:
    thread_id = await opened(upstream)
    first = await hear(upstream, ask("first", thread_id=thread_id))
    second = await hear(upstream, ask("second", thread_id=thread_id))
    assert "in 3 turns" in second.answer
    assert "first / second" in second.answer
    assert said(await items_of(client, thread_id)) == [
        ("user", "first"),
        ("assistant", first.answer),
        ("user", "second"),
        ("assistant", second.answer),
    ]


async def test_without_a_thread_the_whole_conversation_is_sent_and_nothing_is_kept(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    generation = replace(ask(), turns=[*turns(4), Turn(Role.USER, ["and now?"])])
    hearing = await hear(upstream, generation)
    assert "in 5 turns" in hearing.answer
    assert hearing.text == hearing.answer

    async def is_forgotten() -> bool:
        # It notices a moment later that its reader has gone.
        stats = await sandbox.stats()
        return (stats["conversations"], stats["responses"]) == (0, 0)

    await until(is_forgotten)
    assert (await sandbox.stats())["response_posts"] == 1


async def test_a_function_that_the_tutor_wants_called_ends_the_answer(
    upstream: ResponsesUpstream, client: AsyncOpenAI
) -> None:
    thread_id = await opened(upstream)
    config = replace(CONFIG, tools=(FUNCTION,))
    hearing = await hear(upstream, ask("call plot", thread_id=thread_id, config=config))
    assert hearing.end.status is RunStatus.REQUIRES_ACTION
    (call,) = hearing.end.tool_calls
    assert call.name == "plot"
    assert (await items_of(client, thread_id))[-1].id == hearing.end.tail


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"type": "fail", "code": "server_error"}, RunStatus.FAILED, "upstream_unavailable"),
        (
            {"type": "fail", "code": "rate_limit_exceeded"},
            RunStatus.FAILED,
            "upstream_rate_limited",
        ),
        ({"type": "fail", "code": "invalid_prompt"}, RunStatus.FAILED, "upstream_rejected"),
        ({"type": "incomplete"}, RunStatus.INCOMPLETE, None),
    ],
)
async def test_an_answer_that_the_upstream_ends_badly_says_how(
    sandbox: Sandbox,
    upstream: ResponsesUpstream,
    fault: dict[str, Any],
    status: RunStatus,
    code: str | None,
) -> None:
    await sandbox.fault(fault | {"after_deltas": 2}, **POST)
    hearing = await hear(upstream, ask())
    assert (hearing.end.status, hearing.end.error_code) == (status, code)
    assert hearing.end.retryable is (code in {"upstream_unavailable", "upstream_rate_limited"})
    assert hearing.end.incomplete_reason == (None if code else "content_filter")
    assert hearing.end.usage is not None


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("count", [0, 1, 20, 21, 45])
async def test_a_new_thread_holds_the_turns_in_their_order(
    sandbox: Sandbox, client: AsyncOpenAI, upstream: ResponsesUpstream, count: int
) -> None:
    thread = await upstream.open_thread(turns(count))
    assert thread is not None
    assert thread.thread_id is not None
    items = await items_of(client, thread.thread_id)
    assert said(items) == [(turn.role.value, "".join(turn.texts)) for turn in turns(count)]
    assert thread == Thread(thread.thread_id, 0, items[-1].id if items else None)
    more = (await sandbox.stats())["calls"].get("POST /v1/conversations/{id}/items", 0)
    assert more == max(0, count - 1) // 20


async def test_where_there_are_no_conversations_no_thread_is_opened(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    fault = {"type": "status", "status": 404, "message": "Not Found"}
    await sandbox.fault(fault, path="/v1/conversations")
    assert await upstream.open_thread(turns(3)) is None


@pytest.mark.parametrize("fault", [{"type": "html"}, {"type": "json_body"}])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/conversations"), ("GET", "/v1/conversations/*/items")]
)
async def test_a_thread_whose_opening_can_not_be_read_is_an_error_of_the_upstream(
    sandbox: Sandbox, upstream: ResponsesUpstream, fault: dict[str, Any], method: str, path: str
) -> None:
    await sandbox.fault(fault, method=method, path=path)
    with pytest.raises(UpstreamError) as caught:
        await upstream.open_thread(turns(2))
    assert caught.value.code == "upstream_garbage"
    assert caught.value.retryable


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_thread_that_could_not_be_filled_is_not_left_behind(
    sandbox: Sandbox, upstream: ResponsesUpstream, method: str
) -> None:
    fault = {"type": "status", "status": 503}
    await sandbox.fault(fault, method=method, path="/v1/conversations/*/items")
    with pytest.raises(UpstreamError) as caught:
        await upstream.open_thread(turns(45))
    assert caught.value.code == "upstream_unavailable"
    stats = await sandbox.stats()
    assert (stats["conversations_made"], stats["conversations"], stats["items"]) == (1, 0, 0)


async def test_a_thread_is_deleted_with_all_that_it_holds(
    sandbox: Sandbox, client: AsyncOpenAI, upstream: ResponsesUpstream
) -> None:
    kept, gone = await opened(upstream, *turns(3)), await opened(upstream, *turns(45))
    for _ in range(2):
        await upstream.delete_thread(gone)
        stats = await sandbox.stats()
        assert (stats["conversations"], stats["items"]) == (1, 3)
        assert stats["items_of_deleted_conversations"] == 0
    assert len(await items_of(client, kept)) == 3
    await upstream.delete_thread("conv_that_never_was")


async def test_two_may_delete_the_same_thread(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    thread_id = await opened(upstream, *turns(10))
    await asyncio.gather(*(upstream.delete_thread(thread_id) for _ in range(3)))
    stats = await sandbox.stats()
    assert (stats["conversations"], stats["items"]) == (0, 0)
    assert stats["items_of_deleted_conversations"] == 0


@pytest.mark.parametrize("fault", [{"type": "html"}, {"type": "json_body"}])
async def test_a_deletion_that_can_not_be_read_is_an_error_of_the_upstream(
    sandbox: Sandbox, upstream: ResponsesUpstream, fault: dict[str, Any]
) -> None:
    thread_id = await opened(upstream, *turns(2))
    await sandbox.fault(fault, method="GET", path="/v1/conversations/*/items")
    with pytest.raises(UpstreamError) as caught:
        await upstream.delete_thread(thread_id)
    assert caught.value.code == "upstream_garbage"


async def test_a_thread_that_is_being_answered_in_is_busy(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    thread_id = await opened(upstream)
    await sandbox.admin("POST", "pace", {"tokens_per_second": 2, "text": "slowly"})
    slow = asyncio.create_task(hear(upstream, ask("slowly", thread_id=thread_id)))

    async def is_locked() -> bool:
        return (await sandbox.stats())["locked_conversations"] == 1

    try:
        await until(is_locked, within_s=30)
        busy = await hear(upstream, ask("me too", thread_id=thread_id))
    finally:
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
    assert isinstance(busy.failure, ThreadBusyError)
    assert (busy.failure.retryable, busy.failure.generated) == (True, False)
    assert busy.events == []


async def test_a_thread_that_the_upstream_forgot_is_lost(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    thread_id = await opened(upstream, *turns(2))
    await sandbox.admin("POST", "reset")
    hearing = await hear(upstream, ask(thread_id=thread_id))
    assert isinstance(hearing.failure, ThreadLostError)
    assert not hearing.failure.generated


async def test_a_thread_that_waits_for_a_function_is_lost_to_other_questions(
    upstream: ResponsesUpstream,
) -> None:
    thread_id = await opened(upstream)
    config = replace(CONFIG, tools=(FUNCTION,))
    await hear(upstream, ask("call plot", thread_id=thread_id, config=config))
    hearing = await hear(upstream, ask("something else", thread_id=thread_id))
    assert isinstance(hearing.failure, ThreadLostError)


# ---------------------------------------------------------------- outcomes


async def test_what_became_of_a_finished_answer_can_be_asked(
    upstream: ResponsesUpstream,
) -> None:
    thread_id = await opened(upstream)
    hearing = await hear(upstream, ask(thread_id=thread_id))
    found = await outcome(
        upstream, response_id=hearing.response_id, thread_id=thread_id, tail=None
    )
    assert found == hearing.end


@pytest.mark.parametrize("before", [0, 3])
async def test_an_answer_whose_name_was_never_heard_is_found_in_the_thread(
    upstream: ResponsesUpstream, before: int
) -> None:
    thread = await upstream.open_thread(turns(before))
    assert thread is not None
    hearing = await hear(upstream, ask(thread_id=thread.thread_id))
    for response_id in (None, "resp_unknown"):
        found = await outcome(
            upstream, response_id=response_id, thread_id=thread.thread_id, tail=thread.tail
        )
        assert found == replace(hearing.end, usage=None, tool_calls=())


async def test_nothing_became_of_an_answer_that_was_never_begun(
    upstream: ResponsesUpstream,
) -> None:
    thread = await upstream.open_thread(turns(3))
    assert thread is not None
    for thread_id, tail in ((thread.thread_id, thread.tail), (None, None)):
        for response_id in (None, "resp_unknown"):
            found = await outcome(
                upstream, response_id=response_id, thread_id=thread_id, tail=tail
            )
            assert found is None


async def test_an_answer_that_still_goes_on_is_waited_for(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    thread_id = await opened(upstream)
    await sandbox.admin("POST", "pace", {"tokens_per_second": 20, "text": "at length"})
    action = {"type": "reset", "at": {"event": DELTA}, "finish": True}
    await sandbox.fault(action, **POST)
    hearing = await hear(upstream, ask("at length", thread_id=thread_id))
    assert hearing.failure.code == "upstream_interrupted"
    assert (await sandbox.stats())["running"] == 1
    found = await outcome(
        upstream, response_id=hearing.response_id, thread_id=thread_id, tail=None
    )
    assert found is not None
    assert found.status is RunStatus.COMPLETED
    assert "at length" in found.content[0].text
    assert (await sandbox.stats())["response_posts"] == 1


async def test_the_outcome_in_a_lost_thread_is_that_it_is_lost(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    thread_id = await opened(upstream, *turns(2))
    await sandbox.admin("POST", "reset")
    with pytest.raises(ThreadLostError):
        await outcome(upstream, response_id="resp_1", thread_id=thread_id, tail=None)


async def test_a_thread_that_lost_the_place_where_the_answer_would_be_is_lost(
    client: AsyncOpenAI, upstream: ResponsesUpstream
) -> None:
    thread = await upstream.open_thread(turns(2))
    assert thread is not None
    assert thread.thread_id is not None
    assert thread.tail is not None
    await client.conversations.items.delete(thread.tail, conversation_id=thread.thread_id)
    with pytest.raises(ThreadLostError):
        await outcome(upstream, response_id=None, thread_id=thread.thread_id, tail=thread.tail)


@pytest.mark.parametrize("half", ["a function call", "only the question"])
async def test_a_thread_with_half_a_turn_is_lost(
    client: AsyncOpenAI, upstream: ResponsesUpstream, half: str
) -> None:
    thread_id = await opened(upstream)
    if half == "a function call":
        config = replace(CONFIG, tools=(FUNCTION,))
        await hear(upstream, ask("call plot", thread_id=thread_id, config=config))
    else:
        item: Any = {"type": "message", "role": "user", "content": "Is anybody there?"}
        await client.conversations.items.create(thread_id, items=[item])
    with pytest.raises(ThreadLostError):
        await outcome(upstream, response_id=None, thread_id=thread_id, tail=None)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"type": "status", "status": 503}, "upstream_unavailable"),
        ({"type": "status", "status": 429}, "upstream_rate_limited"),
        ({"type": "html"}, "upstream_garbage"),
        ({"type": "json_body"}, "upstream_garbage"),
        ({"type": "json_body", "body": [1]}, "upstream_garbage"),
        ({"type": "reset"}, "upstream_interrupted"),
        ({"type": "stall"}, "upstream_timeout"),
    ],
)
@pytest.mark.parametrize("place", ["response", "thread"])
async def test_an_upstream_that_does_not_tell_the_outcome_may_be_asked_again(
    sandbox: Sandbox,
    an_upstream: AnUpstream,
    fault: dict[str, Any],
    code: str,
    place: str,
) -> None:
    upstream = an_upstream(sandbox.url)
    thread_id = await opened(upstream)
    hearing = await hear(upstream, ask(thread_id=thread_id))
    path = "/v1/responses/*" if place == "response" else "/v1/conversations/*"
    await sandbox.fault(fault, method="GET", path=path, times=None)
    response_id = hearing.response_id if place == "response" else None
    impatient = an_upstream(sandbox.url, first_byte_s=1 if fault["type"] == "stall" else 30)
    with pytest.raises(UpstreamError) as caught:
        await outcome(impatient, response_id=response_id, thread_id=thread_id, tail=None)
    assert (caught.value.code, caught.value.retryable) == (code, True)
    await sandbox.admin("DELETE", "faults")
    found = await outcome(impatient, response_id=response_id, thread_id=thread_id, tail=None)
    assert found is not None
    assert found.content == hearing.end.content
