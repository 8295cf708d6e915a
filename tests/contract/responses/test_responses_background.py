"""Background answers: they outlive their listener, are heard again by name, and are cancelled."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from openai import AsyncOpenAI

from app.adapters.responses.upstream import ResponsesUpstream
from app.domain.errors import UpstreamError, UpstreamInterruptedError
from app.domain.models import RunStatus
from app.ports import Started, TextDelta, UpstreamEvent
from app.sandbox.config import SandboxConfig
from tests.contract.responses.conftest import (
    COMPLETED,
    DELTA,
    POST,
    AnUpstream,
    Hearing,
    RawServer,
    ask,
    hear,
    outcome,
    plain,
    recording,
)
from tests.contract.sandbox.conftest import KEY, Sandbox, serving, until

SLOWLY = "slowly, one two three"
CUT = {"type": "reset", "at": {"event": DELTA, "nth": 3}}


@pytest.fixture
def upstream(sandbox: Sandbox, an_upstream: AnUpstream) -> ResponsesUpstream:
    return an_upstream(sandbox.url, background=True)


async def opened(upstream: ResponsesUpstream) -> str:
    thread = await upstream.open_thread([])
    assert thread is not None
    assert thread.thread_id is not None
    return thread.thread_id


async def left_alone(
    sandbox: Sandbox, upstream: ResponsesUpstream, thread_id: str | None, pace: float
) -> Hearing:
    """Return an answer that goes on after its stream was cut."""
    await sandbox.admin("POST", "pace", {"tokens_per_second": pace, "text": SLOWLY})
    await sandbox.fault(CUT, **POST)
    hearing = await hear(upstream, ask(SLOWLY, thread_id=thread_id))
    assert isinstance(hearing.failure, UpstreamInterruptedError)
    assert (await sandbox.stats())["running_background"] == 1
    return hearing


def text_of(events: list[UpstreamEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


# ---------------------------------------------------------------- created


@pytest.mark.parametrize("thread_id", [None, "conv_1"])
async def test_it_is_asked_for_detached_streamed_and_stored(
    raw: RawServer, an_upstream: AnUpstream, thread_id: str | None
) -> None:
    for background in (True, False):
        raw.scripts = [[plain(recording("a"))]]
        upstream = an_upstream(raw.url, background=background)
        assert upstream.is_background is background
        await hear(upstream, ask(thread_id=thread_id))
    detached, attached = (json.loads(r.partition(b"\r\n\r\n")[2]) for r in raw.requests)
    assert (detached["background"], detached["stream"], detached["store"]) == (True, True, True)
    assert "background" not in attached
    assert attached["store"] is (thread_id is not None)


async def test_it_is_heard_as_any_other(sandbox: Sandbox, upstream: ResponsesUpstream) -> None:
    hearing = await hear(upstream, ask(thread_id=await opened(upstream)))
    assert isinstance(hearing.events[0], Started)
    assert hearing.end.status is RunStatus.COMPLETED
    assert hearing.text == hearing.answer
    assert hearing.end.usage is not None
    assert (await sandbox.stats())["response_posts"] == 1


async def test_it_goes_on_when_its_listener_is_gone(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 20, "text": SLOWLY})
    events: list[UpstreamEvent] = []
    task = asyncio.create_task(upstream.generate(ask(SLOWLY), events.append))

    async def speaks() -> bool:
        return any(isinstance(event, TextDelta) for event in events)

    await until(speaks, within_s=30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await sandbox.stats())["running_background"] == 1
    (started,) = (event for event in events if isinstance(event, Started))
    ended = await outcome(upstream, response_id=started.response_id)
    assert ended is not None
    assert ended.status is RunStatus.COMPLETED


# ---------------------------------------------------------------- followed


async def test_a_cut_answer_is_heard_again_from_its_beginning_and_not_made_again(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    thread_id = await opened(upstream)
    first = await left_alone(sandbox, upstream, thread_id, 20)
    heard: list[UpstreamEvent] = []
    ended = await outcome(
        upstream, heard.append, response_id=first.response_id, thread_id=thread_id
    )
    assert ended is not None
    assert ended.status is RunStatus.COMPLETED
    assert ended.usage is not None
    assert text_of(heard) == "".join(part.text for part in ended.content)
    assert text_of(heard).startswith(first.text)
    assert len(heard) > 5
    stats = await sandbox.stats()
    assert stats["response_posts"] == 1

    async def nobody_listens() -> bool:
        return not (await sandbox.stats())["open_streams"]

    # It is told that its listener is gone, a moment after that.
    await until(nobody_listens)


@pytest.mark.parametrize(
    "fault",
    [
        {"type": "reset", "at": {"event": DELTA, "nth": 2}},
        {"type": "eof", "at": {"event": DELTA, "nth": 2}},
        {"type": "garbage_json", "at": {"event": DELTA, "nth": 2}},
        {"type": "stall", "at": {"event": DELTA, "nth": 2}},
    ],
    ids=lambda fault: str(fault["type"]),
)
async def test_a_stream_that_is_cut_again_can_be_heard_once_more(
    sandbox: Sandbox, an_upstream: AnUpstream, fault: dict[str, object]
) -> None:
    upstream = an_upstream(sandbox.url, background=True, idle_s=2)
    first = await left_alone(sandbox, upstream, None, 10)
    # The second call: the first one only asks how it stands.
    await sandbox.fault(fault, method="GET", path="/v1/responses/*", nth=2)
    with pytest.raises(UpstreamInterruptedError):
        await outcome(upstream, response_id=first.response_id)
    await sandbox.admin("POST", "pace", {"tokens_per_second": 0})
    heard: list[UpstreamEvent] = []
    ended = await outcome(upstream, heard.append, response_id=first.response_id)
    assert ended is not None
    assert ended.status is RunStatus.COMPLETED
    assert (await sandbox.stats())["response_posts"] == 1


async def test_one_that_has_ended_is_read_and_not_heard(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    await sandbox.fault({"type": "eof", "at": {"event": COMPLETED}}, **POST)
    first = await hear(upstream, ask())
    assert first.failure.code == "upstream_interrupted"
    heard: list[UpstreamEvent] = []
    ended = await outcome(upstream, heard.append, response_id=first.response_id)
    assert ended is not None
    assert "".join(part.text for part in ended.content) == first.text
    assert heard == []


async def test_nothing_is_known_of_one_that_the_upstream_forgot(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    first = await left_alone(sandbox, upstream, None, 5)
    await sandbox.admin("POST", "reset")
    assert await outcome(upstream, response_id=first.response_id) is None


@pytest.fixture(scope="module")
def forgetful_port() -> Iterator[int]:
    with serving(SandboxConfig(tokens_per_second=0, resume_window_s=0)) as found:
        yield found


@pytest.fixture
async def forgetful(forgetful_port: int) -> AsyncIterator[Sandbox]:
    """A sandbox whose streams can't be heard again."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        yield Sandbox(forgetful_port, http)


async def test_after_some_minutes_it_is_waited_for_without_being_heard(
    forgetful: Sandbox, an_upstream: AnUpstream
) -> None:
    upstream = an_upstream(forgetful.url, background=True)
    first = await left_alone(forgetful, upstream, None, 20)
    heard: list[UpstreamEvent] = []
    ended = await outcome(upstream, heard.append, response_id=first.response_id)
    assert ended is not None
    assert ended.status is RunStatus.COMPLETED
    assert heard == []
    assert (await forgetful.stats())["response_posts"] == 1


# ---------------------------------------------------------------- cancelled


async def test_cancelling_stops_it_and_tells_its_cost_however_often(
    sandbox: Sandbox, client: AsyncOpenAI, upstream: ResponsesUpstream
) -> None:
    thread_id = await opened(upstream)
    first = await left_alone(sandbox, upstream, thread_id, 5)
    ended = await upstream.cancel(first.response_id)
    assert ended is not None
    assert ended.status is RunStatus.CANCELLED
    assert ended.usage is not None
    assert ended.usage.output_tokens >= 2
    assert await upstream.cancel(first.response_id) == ended
    assert (await client.responses.retrieve(first.response_id)).status == "cancelled"
    stats = await sandbox.stats()
    assert (stats["running"], stats["locked_conversations"], stats["items"]) == (0, 0, 0)
    assert (await hear(upstream, ask("and now?", thread_id=thread_id))).end


async def test_cancelling_loses_to_an_answer_that_is_finished(
    upstream: ResponsesUpstream,
) -> None:
    hearing = await hear(upstream, ask(thread_id=await opened(upstream)))
    assert await upstream.cancel(hearing.response_id) == hearing.end


async def test_one_that_somebody_cancels_ends_so_for_its_listener(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 5, "text": SLOWLY})
    events: list[UpstreamEvent] = []
    task = asyncio.create_task(upstream.generate(ask(SLOWLY), events.append))

    async def speaks() -> bool:
        return any(isinstance(event, TextDelta) for event in events)

    await until(speaks, within_s=30)
    (started,) = (event for event in events if isinstance(event, Started))
    await upstream.cancel(started.response_id)
    # No event says so: the stream just ends.
    with pytest.raises(UpstreamInterruptedError):
        await asyncio.wait_for(task, 30)
    ended = await outcome(upstream, response_id=started.response_id)
    assert ended is not None
    assert ended.status is RunStatus.CANCELLED


async def test_what_is_unknown_or_attached_is_not_cancelled(
    sandbox: Sandbox, an_upstream: AnUpstream
) -> None:
    upstream = an_upstream(sandbox.url)
    assert await upstream.cancel("resp_unknown") is None
    thread_id = await opened(upstream)
    finished = await hear(upstream, ask(thread_id=thread_id))
    assert await upstream.cancel(finished.response_id) == finished.end
    await sandbox.admin("POST", "pace", {"tokens_per_second": 5, "text": SLOWLY})
    await sandbox.fault({**CUT, "finish": True}, **POST)
    attached = await hear(upstream, ask(SLOWLY, thread_id=thread_id))
    assert (await sandbox.stats())["running"] == 1
    assert await upstream.cancel(attached.response_id) is None


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"type": "status", "status": 503}, "upstream_unavailable"),
        ({"type": "status", "status": 429}, "upstream_rate_limited"),
        ({"type": "html"}, "upstream_garbage"),
        ({"type": "json_body"}, "upstream_garbage"),
        ({"type": "reset"}, "upstream_interrupted"),
    ],
    ids=str,
)
async def test_a_cancellation_that_is_not_answered_may_be_told_again(
    sandbox: Sandbox, upstream: ResponsesUpstream, fault: dict[str, object], code: str
) -> None:
    first = await left_alone(sandbox, upstream, None, 5)
    await sandbox.fault(fault, method="POST", path="/v1/responses/*/cancel")
    with pytest.raises(UpstreamError) as caught:
        await upstream.cancel(first.response_id)
    assert (caught.value.code, caught.value.retryable) == (code, True)
    ended = await upstream.cancel(first.response_id)
    assert ended is not None
    assert ended.status is RunStatus.CANCELLED
