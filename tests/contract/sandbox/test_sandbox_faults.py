"""Every fault, seen on the wire."""

import asyncio
import json
import time
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.contract.sandbox.conftest import MODEL, Sandbox, until

DELTA = "response.output_text.delta"
POST = {"method": "POST", "path": "/v1/responses"}
BODY: dict[str, Any] = {"model": MODEL, "input": "one two three", "stream": True}


def numbers(events: list[Any]) -> list[int]:
    return [event.data["sequence_number"] for event in events]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_status_answers_in_the_envelope(
    sandbox: Sandbox, client: AsyncOpenAI, status: int
) -> None:
    await sandbox.fault(
        {"type": "status", "status": status, "code": "some_code", "message": "Not now."}, **POST
    )
    with pytest.raises(openai.APIStatusError) as caught:
        await client.responses.create(model=MODEL, input="x")
    assert caught.value.status_code == status
    assert caught.value.code == "some_code"
    assert "Not now." in caught.value.message
    assert (await client.responses.create(model=MODEL, input="x")).status == "completed"
    assert (await sandbox.stats())["response_posts"] == 2


async def test_status_may_say_when_to_come_back(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    action = {
        "type": "status",
        "status": 429,
        "retry_after": 7,
        "headers": {"x-should-retry": "false"},
    }
    await sandbox.fault(action, **POST)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.responses.create(model=MODEL, input="x")
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_the_client_comes_back_when_it_was_told_to(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.fault({"type": "status", "status": 429, "retry_after": 1}, **POST)
    started = time.monotonic()
    patient = client.with_options(max_retries=1)
    assert (await patient.responses.create(model=MODEL, input="x")).status == "completed"
    assert time.monotonic() - started >= 1
    assert (await sandbox.stats())["response_posts"] == 2


@pytest.mark.parametrize("after_work", [False, True])
async def test_reset_before_the_headers(
    sandbox: Sandbox, client: AsyncOpenAI, *, after_work: bool
) -> None:
    await sandbox.fault({"type": "reset", "after_work": after_work}, path="/v1/conversations")
    with pytest.raises(openai.APIConnectionError):
        await client.conversations.create()
    assert (await sandbox.stats())["conversations_made"] == int(after_work)


async def test_a_reset_is_a_tcp_reset(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "reset", "at": {"event": DELTA, "nth": 2}}, **POST)
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    body = json.dumps(BODY).encode()
    writer.write(
        b"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    got = await reader.readuntil(DELTA.encode())
    got += await reader.readuntil(b"}\n\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert got.count(b"event: " + DELTA.encode()) == 1


@pytest.mark.parametrize(
    "event",
    [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        DELTA,
        "response.output_text.done",
        "response.output_item.done",
        "response.completed",
    ],
)
@pytest.mark.parametrize("kind", ["reset", "eof"])
async def test_a_stream_is_cut_before_the_chosen_event(
    sandbox: Sandbox, kind: str, event: str
) -> None:
    await sandbox.fault({"type": kind, "at": {"event": event}}, **POST)
    reading = await sandbox.read(**BODY)
    assert reading.status == 200
    assert event not in reading.names
    assert (reading.names == []) is (event == "response.created")
    assert isinstance(reading.error, httpx2.NetworkError | httpx2.RemoteProtocolError) is (
        kind == "reset"
    )
    whole = await sandbox.read(**BODY)
    assert whole.names[-1] == "response.completed"


async def test_a_cut_may_fall_in_or_after_an_event_or_at_an_index(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "eof", "at": {"index": 5}}, **POST)
    assert len((await sandbox.read(**BODY)).events) == 5
    await sandbox.fault({"type": "eof", "at": {"event": DELTA}, "position": "after"}, **POST)
    assert (await sandbox.read(**BODY)).names.count(DELTA) == 1
    await sandbox.fault({"type": "eof", "at": {"event": DELTA}, "position": "middle"}, **POST)
    reading = await sandbox.read(**BODY)
    assert reading.error is None
    assert not reading.body.endswith(b"\n\n")
    with pytest.raises(json.JSONDecodeError):
        _ = reading.events[-1].data


@pytest.mark.parametrize("kind", ["reset", "eof"])
async def test_a_cut_foreground_stream_is_undone(
    sandbox: Sandbox, client: AsyncOpenAI, kind: str
) -> None:
    conversation = await client.conversations.create()
    await sandbox.fault({"type": kind, "at": {"event": DELTA, "nth": 3}}, **POST)
    reading = await sandbox.read(**BODY, conversation=conversation.id)
    response_id = reading.events[0].data["response"]["id"]
    again = await client.responses.create(model=MODEL, input="again", conversation=conversation.id)
    assert "in 1 turns" in again.output_text
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response_id)


async def test_a_cut_background_stream_goes_on(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    await sandbox.fault({"type": "reset", "at": {"event": DELTA, "nth": 3}}, **POST)
    reading = await sandbox.read(**BODY, background=True)
    seen = reading.events
    path = f"/v1/responses/{seen[0].data['response']['id']}"
    rest = await sandbox.read(f"{path}?stream=true&starting_after={numbers(seen)[-1]}")
    whole = numbers([*seen, *rest.events])
    assert whole == list(range(len(whole)))
    assert (await client.responses.retrieve(path.rpartition("/")[2])).status == "completed"


async def test_garbage_is_an_event_that_is_no_json(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    rule = {"type": "garbage_json", "at": {"event": DELTA, "nth": 2}}
    await sandbox.fault(rule, **POST)
    reading = await sandbox.read(**BODY)
    broken = []
    for event in reading.events:
        try:
            _ = event.data
        except json.JSONDecodeError:
            broken.append(event)
    assert len(broken) == 1
    await sandbox.fault(rule, **POST)
    with pytest.raises(ValueError, match="Unterminated"):
        async for _ in await client.responses.create(model=MODEL, input="x", stream=True):
            pass


async def test_bad_utf8_is_an_event_that_is_no_text(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "bad_utf8", "at": {"event": DELTA}}, **POST)
    reading = await sandbox.read(**BODY)
    with pytest.raises(UnicodeDecodeError):
        reading.body.decode()
    assert reading.names[-1] == "response.completed"


async def test_an_event_is_sent_twice(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "duplicate", "at": {"event": DELTA, "nth": 2}}, **POST)
    found = numbers((await sandbox.read(**BODY)).events)
    twice = [number for number in found if found.count(number) == 2]
    assert len(twice) == 2
    assert sorted(set(found)) == list(range(max(found) + 1))


async def test_every_event_is_sent_three_times(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "duplicate", "count": 3}, **POST)
    found = numbers((await sandbox.read(**BODY)).events)
    assert found == [number for number in range(max(found) + 1) for _ in range(3)]


async def test_two_events_change_places(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "reorder", "at": {"event": DELTA, "nth": 2}}, **POST)
    found = numbers((await sandbox.read(**BODY)).events)
    assert found != sorted(found)
    assert sorted(found) == list(range(len(found)))


async def test_the_last_event_has_none_to_change_places_with(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "reorder", "at": {"event": "response.completed"}}, **POST)
    reading = await sandbox.read(**BODY)
    assert reading.names[-1] == "response.completed"
    assert reading.error is None


async def test_an_event_and_its_number_are_missing(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "drop", "at": {"event": DELTA}}, **POST)
    found = numbers((await sandbox.read(**BODY)).events)
    assert sorted(set(range(max(found) + 1)) - set(found)) == [4]


async def test_numbers_are_missing_from_an_event_on(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "no_sequence", "at": {"event": DELTA}}, **POST)
    reading = await sandbox.read(**BODY)
    has = ["sequence_number" in event.data for event in reading.events]
    assert has == [True] * 4 + [False] * (len(has) - 4)
    assert reading.names[-1] == "response.completed"


async def test_an_unknown_event_comes_between(sandbox: Sandbox) -> None:
    await sandbox.fault(
        {"type": "unknown_event", "event": "response.novelty", "at": {"index": 3}}, **POST
    )
    reading = await sandbox.read(**BODY)
    assert reading.names[3] == "response.novelty"
    assert reading.events[3].data["type"] == "response.novelty"
    assert reading.names[-1] == "response.completed"


async def test_an_event_is_oversized(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "oversize", "megabytes": 9, "at": {"event": DELTA}}, **POST)
    reading = await sandbox.read(**BODY)
    assert max(len(event.raw) for event in reading.events) > 9 * 1024 * 1024
    assert reading.names[-1] == "response.completed"


async def test_html_comes_with_200(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "html"}, **POST)
    reading = await sandbox.read(**BODY)
    assert reading.status == 200
    assert reading.content_type.startswith("text/html")
    assert b"<html>" in reading.body


async def test_json_comes_instead_of_a_stream(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "json_body", "body": {"object": "surprise"}}, **POST)
    reading = await sandbox.read(**BODY)
    assert reading.status == 200
    assert reading.content_type == "application/json"
    assert json.loads(reading.body) == {"object": "surprise"}


async def test_a_stream_falls_silent(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "stall", "seconds": 1, "at": {"event": DELTA, "nth": 2}}, **POST)
    reading = await sandbox.read(**BODY)
    assert reading.seconds > 1
    assert reading.names[-1] == "response.completed"


async def test_whoever_leaves_a_silent_stream_is_noticed(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    conversation = await client.conversations.create()
    await sandbox.fault({"type": "stall", "seconds": 600, "at": {"event": DELTA}}, **POST)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await sandbox.read(**BODY, conversation=conversation.id)

    async def is_free() -> bool:
        return not (await sandbox.stats())["locked_conversations"]

    await until(is_free)


async def test_a_stream_drips_byte_by_byte(sandbox: Sandbox) -> None:
    await sandbox.fault(
        {"type": "drip", "chunk_bytes": 400, "interval_s": 0.01, "at": {"index": 0}}, **POST
    )
    started = time.monotonic()
    async with sandbox.http.stream("POST", f"{sandbox.url}/v1/responses", json=BODY) as answer:
        sizes = [len(chunk) async for chunk in answer.aiter_raw()]
    assert max(sizes) <= 800
    assert time.monotonic() - started > sum(sizes) / 400 * 0.01


async def test_the_first_byte_is_late(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "delay", "seconds": 0.7}, **POST)
    started = time.monotonic()
    async with sandbox.http.stream("POST", f"{sandbox.url}/v1/responses", json=BODY) as answer:
        assert time.monotonic() - started > 0.7
        await answer.aread()


async def test_a_generation_fails(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    await sandbox.fault(
        {"type": "fail", "after_deltas": 3, "code": "rate_limit_exceeded", "message": "Enough."},
        **POST,
    )
    stream = await client.responses.create(model=MODEL, input="x", stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.error.code, last.response.error.message) == (
        "rate_limit_exceeded",
        "Enough.",
    )
    assert sum(event.type == DELTA for event in events) == 3
    assert last.sequence_number == len(events) - 1


async def test_a_generation_ends_with_an_error_event(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "error", "after_deltas": 1, "code": "any_code"}, **POST)
    reading = await sandbox.read(**BODY)
    last = reading.events[-1]
    assert last.name == "error"
    assert last.data["code"] == "any_code"
    assert last.data["sequence_number"] == len(reading.events) - 1


async def test_the_client_passes_an_error_event_on(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    await sandbox.fault({"type": "error", "after_deltas": 1, "message": "Enough."}, **POST)
    stream = await client.responses.create(model=MODEL, input="x", stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "error"
    assert events[-1].message == "Enough."


async def test_a_generation_is_filtered(sandbox: Sandbox, client: AsyncOpenAI) -> None:
    await sandbox.fault({"type": "incomplete", "after_deltas": 2}, **POST)
    made = await client.responses.create(model=MODEL, input="x")
    assert made.status == "incomplete"
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == "content_filter"


@pytest.mark.parametrize("kind", ["fail", "incomplete"])
async def test_what_was_said_before_the_end_stays_in_the_response(
    sandbox: Sandbox, client: AsyncOpenAI, kind: str
) -> None:
    await sandbox.fault({"type": kind, "after_deltas": 3}, **POST)
    stream = await client.responses.create(model=MODEL, input="x", stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert last.type in {"response.failed", "response.incomplete"}
    said = "".join(event.delta for event in events if event.type == DELTA)
    assert said
    assert last.response.output_text == said
    assert last.response.output[0].status == "incomplete"


async def test_a_background_response_stays_queued_until_cancelled(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    await sandbox.fault({"type": "stuck"}, **POST)
    made = await client.responses.create(model=MODEL, input="x", background=True)
    await asyncio.sleep(0.2)
    assert (await client.responses.retrieve(made.id)).status == "queued"
    assert (await client.responses.cancel(made.id)).status == "cancelled"


async def test_a_foreground_stream_that_is_stuck_never_goes_on(sandbox: Sandbox) -> None:
    await sandbox.fault({"type": "stuck"}, **POST)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await sandbox.read(**BODY)
    assert (await sandbox.read(**BODY)).names[-1] == "response.completed"


async def test_a_generation_may_finish_although_its_stream_was_cut(
    sandbox: Sandbox, client: AsyncOpenAI
) -> None:
    conversation = await client.conversations.create()
    action = {"type": "reset", "at": {"event": DELTA}, "finish": True}
    await sandbox.fault(action, **POST)
    reading = await sandbox.read(**BODY, conversation=conversation.id)
    assert "response.completed" not in reading.names

    async def is_done() -> bool:
        return (await sandbox.stats())["generations_completed"] == 1

    await until(is_done)
    assert len((await client.conversations.items.list(conversation.id)).data) == 2


async def test_a_client_that_leaves_before_it_is_cut_off_is_no_defect(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    await sandbox.fault({"type": "reset", "after_work": True}, **POST)
    await sandbox.admin("POST", "pace", {"tokens_per_second": 40})
    with pytest.raises(httpx2.TimeoutException):
        await sandbox.http.post(
            f"{sandbox.url}/v1/responses",
            json={**BODY, "stream": False},
            headers={"Authorization": "Bearer k"},
            timeout=0.05,
        )

    async def is_over() -> bool:
        return (await sandbox.stats())["generations_completed"] == 1

    await until(is_over)
    await sandbox.admin("GET", "stats")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", ["bad_utf8", "oversize", "duplicate", "eof"])
async def test_a_refusal_is_not_spoiled_by_what_is_meant_for_a_stream(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    await sandbox.fault({"type": kind, "megabytes": 0.1}, **POST)
    answer = await sandbox.http.post(
        f"{sandbox.url}/v1/responses",
        json={**BODY, "conversation": "conv_unknown"},
        headers={"Authorization": "Bearer k"},
    )
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "Conversation with id 'conv_unknown' not found."
    assert "Traceback" not in caplog.text
