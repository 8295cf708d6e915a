"""Streams that are cut, spoiled, slow or silent: read to the truth, or given up in time."""

import asyncio
import gzip
import time
from typing import Any

import pytest

from app.adapters.responses.upstream import ResponsesUpstream
from app.domain.errors import UpstreamInterruptedError
from app.domain.models import RunStatus, Usage
from app.ports import Started, TextDelta, UpstreamEvent
from tests.contract.responses.conftest import (
    COMPLETED,
    CREATED,
    DELTA,
    HEAD,
    POST,
    AnUpstream,
    RawServer,
    ask,
    hear,
    plain,
    raw_server,
    recording,
)
from tests.contract.sandbox.conftest import Sandbox, until

pytestmark = pytest.mark.usefixtures("company")

PLACES: list[dict[str, Any]] = [
    {"at": {"event": CREATED}},
    {"at": {"event": CREATED}, "position": "middle"},
    {"at": {"event": "response.in_progress"}},
    {"at": {"event": "response.output_item.added"}},
    {"at": {"event": "response.content_part.added"}},
    {"at": {"event": DELTA}},
    {"at": {"event": DELTA, "nth": 4}, "position": "middle"},
    {"at": {"event": DELTA, "nth": 4}, "position": "after"},
    {"at": {"event": "response.output_text.done"}},
    {"at": {"event": "response.content_part.done"}},
    {"at": {"event": "response.output_item.done"}},
    {"at": {"event": COMPLETED}},
    {"at": {"event": COMPLETED}, "position": "middle"},
]
SPLIT_TEXTS = ("가나 ", "a\u2028b\u0085c\x0b\x0c", "\N{GRINNING FACE}\r\n", "\u00e9.")


# ---------------------------------------------------------------- cut


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("kind", ["reset", "eof"])
async def test_a_stream_that_is_cut_has_not_ended_and_is_not_asked_for_again(
    sandbox: Sandbox, upstream: ResponsesUpstream, kind: str, place: dict[str, Any]
) -> None:
    whole = await hear(upstream, ask())
    await sandbox.fault({"type": kind, **place}, **POST)
    hearing = await hear(upstream, ask())
    assert isinstance(hearing.failure, UpstreamInterruptedError)
    assert hearing.failure.code == "upstream_interrupted"
    assert (hearing.failure.retryable, hearing.failure.generated) == (True, True)
    is_before_all = place["at"]["event"] == CREATED
    assert [event for event in hearing.events if isinstance(event, Started)] == (
        [] if is_before_all else hearing.events[:1]
    )
    assert whole.text.startswith(hearing.text)
    event = place["at"]["event"]
    if event == DELTA:
        heard = place["at"].get("nth", 1) - (place.get("position") != "after")
        assert len(hearing.events) == 1 + heard
    else:
        assert (hearing.text == whole.text) is (event.endswith((".done", ".completed")))
    assert (await sandbox.stats())["response_posts"] == 2


async def test_a_terminal_event_ends_the_answer_whatever_becomes_of_the_connection(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    action = {"type": "reset", "at": {"event": COMPLETED}, "position": "after"}
    await sandbox.fault(action, **POST)
    hearing = await hear(upstream, ask())
    assert hearing.end.status is RunStatus.COMPLETED
    assert hearing.text == hearing.answer


# ---------------------------------------------------------------- spoiled


@pytest.mark.parametrize(
    "fault",
    [
        {"type": "garbage_json", "at": {"event": DELTA, "nth": 2}},
        {"type": "garbage_json", "at": {"event": COMPLETED}, "replace": True},
        {"type": "bad_utf8", "at": {"event": DELTA, "nth": 2}},
        {"type": "bad_utf8", "at": {"index": 0}},
        {"type": "html"},
        {"type": "json_body"},
        {"type": "status", "status": 200, "body": ""},
    ],
    ids=str,
)
async def test_a_stream_that_can_not_be_read_is_garbage(
    sandbox: Sandbox, upstream: ResponsesUpstream, fault: dict[str, Any]
) -> None:
    await sandbox.fault(fault, **POST)
    hearing = await hear(upstream, ask())
    assert isinstance(hearing.failure, UpstreamInterruptedError)
    assert hearing.failure.code == "upstream_garbage"
    assert hearing.failure.detail == "The tutor's answer could not be read."
    assert (await sandbox.stats())["response_posts"] == 1
    assert (await hear(upstream, ask())).ended is not None


@pytest.mark.parametrize(
    "fault",
    [
        {"type": "duplicate"},
        {"type": "duplicate", "count": 3, "at": {"event": DELTA, "nth": 2}},
        {"type": "duplicate", "at": {"event": COMPLETED}},
        {"type": "no_sequence", "at": {"index": 0}},
        {"type": "no_sequence", "at": {"event": DELTA, "nth": 3}},
        {"type": "unknown_event", "at": {"index": 0}},
        {"type": "unknown_event", "at": {"event": DELTA, "nth": 2}},
        {
            "type": "unknown_event",
            "event": "response.sparkle_call.in_progress",
            "at": {"index": 2},
        },
        {"type": "drip", "at": {"index": 0}, "chunk_bytes": 7, "interval_s": 0},
    ],
    ids=str,
)
async def test_what_comes_twice_unnumbered_unknown_or_in_drops_changes_no_word(
    sandbox: Sandbox, upstream: ResponsesUpstream, fault: dict[str, Any]
) -> None:
    whole = await hear(upstream, ask())
    await sandbox.fault(fault, **POST)
    hearing = await hear(upstream, ask())
    assert (hearing.text, hearing.answer) == (whole.text, whole.text)
    assert len([event for event in hearing.events if isinstance(event, Started)]) == 1
    assert (await sandbox.stats())["response_posts"] == 2


@pytest.mark.parametrize("kind", ["reorder", "drop"])
@pytest.mark.parametrize("nth", [1, 3])
async def test_the_final_account_is_whole_although_a_delta_was_late_or_missing(
    sandbox: Sandbox, upstream: ResponsesUpstream, kind: str, nth: int
) -> None:
    whole = await hear(upstream, ask())
    await sandbox.fault({"type": kind, "at": {"event": DELTA, "nth": nth}}, **POST)
    hearing = await hear(upstream, ask())
    assert hearing.answer == whole.answer
    texts = [event.text for event in whole.events if isinstance(event, TextDelta)]
    del texts[nth - 1]
    assert hearing.text == "".join(texts)


@pytest.mark.parametrize("replace", [True, False])
async def test_a_huge_event_is_garbage(
    sandbox: Sandbox, upstream: ResponsesUpstream, *, replace: bool
) -> None:
    action = {"type": "oversize", "at": {"event": DELTA}, "megabytes": 50, "replace": replace}
    await sandbox.fault(action, **POST)
    hearing = await hear(upstream, ask())
    assert hearing.failure.code == "upstream_garbage"
    assert hearing.failure.detail == "The tutor's answer could not be read."
    assert hearing.text == ""

    async def is_free() -> bool:
        return bool((await sandbox.stats())["open_streams"] == 0)

    await until(is_free, within_s=30)


@pytest.mark.parametrize("line", [b"data: ", b"data: x\ndata: ", b": ", b""], ids=repr)
async def test_a_huge_event_is_given_up_long_before_its_end(
    raw: RawServer, an_upstream: AnUpstream, line: bytes
) -> None:
    piece = b"x" * (64 << 10)
    raw.scripts = [[plain(line), *[piece] * 800]]
    hearing = await hear(an_upstream(raw.url), ask())
    assert hearing.failure.code == "upstream_garbage"
    # What is on its way in the sockets' buffers was not held by us.
    assert raw.sent_bytes < 20 << 20


# ---------------------------------------------------------------- slow and silent


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ({"type": "stall"}, "before"),
        ({"type": "stall", "at": {"index": 0}}, "before"),
        ({"type": "stall", "at": {"event": DELTA, "nth": 3}}, "inside"),
        ({"type": "stall", "at": {"event": COMPLETED}}, "inside"),
        ({"type": "stuck"}, "inside"),
    ],
    ids=str,
)
async def test_silence_ends_in_time(
    sandbox: Sandbox, an_upstream: AnUpstream, fault: dict[str, Any], place: str
) -> None:
    await sandbox.fault(fault, **POST)
    patience = {"first_byte_s": 1, "idle_s": 30}
    if place == "inside":
        patience = {"first_byte_s": 30, "idle_s": 1}
    upstream = an_upstream(sandbox.url, **patience)
    started = time.monotonic()
    hearing = await hear(upstream, ask())
    assert time.monotonic() - started < 15
    assert isinstance(hearing.failure, UpstreamInterruptedError)
    assert hearing.failure.code == "upstream_timeout"
    assert len([event for event in hearing.events if isinstance(event, Started)]) == (
        place == "inside"
    )
    assert (await sandbox.stats())["response_posts"] == 1

    async def is_over() -> bool:
        stats = await sandbox.stats()
        return bool(stats["open_streams"] == stats["running"] == 0)

    await until(is_over, within_s=30)


@pytest.mark.parametrize("idle_s", [2, 0.4])
async def test_a_slow_drip_is_read_as_long_as_it_drips(
    raw: RawServer, an_upstream: AnUpstream, idle_s: float
) -> None:
    body = recording("a", "b")
    size = len(body) // 30 + 1
    drops = [body[start : start + size] for start in range(0, len(body), size)]
    pause = 2.4 / 30
    raw.scripts = [[plain(b""), *(step for drop in drops for step in (drop, pause))]]
    upstream = an_upstream(raw.url, first_byte_s=idle_s, idle_s=idle_s)
    started = time.monotonic()
    hearing = await hear(upstream, ask())
    assert hearing.answer == "ab"
    assert time.monotonic() - started > 2


async def test_what_drips_is_not_given_up_on_a_machine_that_was_just_started(
    raw: RawServer, an_upstream: AnUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock counts from the start, and is not as far yet as the steps of our patience."""
    body = recording(*"abcdefgh")
    size = len(body) // 10 + 1
    drops = [body[start : start + size] for start in range(0, len(body), size)]
    raw.scripts = [[plain(b""), *(step for drop in drops for step in (drop, 0.2))]]
    loop = asyncio.get_running_loop()
    clock, begun = loop.time, loop.time()
    monkeypatch.setattr(loop, "time", lambda: clock() - begun)
    hearing = await hear(an_upstream(raw.url, first_byte_s=1, idle_s=600), ask())
    monkeypatch.undo()
    assert hearing.answer == "abcdefgh"


# ---------------------------------------------------------------- given up by us


async def test_cancelling_closes_the_socket_and_ends_the_generation(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    thread = await upstream.open_thread([])
    assert thread is not None
    await sandbox.admin("POST", "pace", {"tokens_per_second": 5, "text": "slowly"})
    heard = asyncio.Event()

    def listen(event: UpstreamEvent) -> None:
        if isinstance(event, TextDelta):
            heard.set()

    question = ask("slowly", thread_id=thread.thread_id)
    task = asyncio.create_task(upstream.generate(question, listen))
    async with asyncio.timeout(30):
        await heard.wait()
    stats = await sandbox.stats()
    assert (stats["running"], stats["open_streams"], stats["locked_conversations"]) == (1, 1, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def is_over() -> bool:
        stats = await sandbox.stats()
        return bool(stats["running"] == stats["open_streams"] == 0)

    await until(is_over, within_s=30)
    stats = await sandbox.stats()
    assert (stats["generations_completed"], stats["items"]) == (0, 0)
    assert (await hear(upstream, ask(thread_id=thread.thread_id))).ended is not None


async def test_a_listener_that_has_enough_ends_the_generation(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    class EnoughError(Exception):
        pass

    def listen(event: UpstreamEvent) -> None:
        if isinstance(event, TextDelta):
            raise EnoughError

    await sandbox.admin("POST", "pace", {"tokens_per_second": 5, "text": "slowly"})
    with pytest.raises(EnoughError):
        await upstream.generate(ask("slowly"), listen)

    async def is_over() -> bool:
        stats = await sandbox.stats()
        return bool(stats["running"] == stats["open_streams"] == 0)

    await until(is_over, within_s=30)


@pytest.mark.parametrize(
    "fault", [{"type": "garbage_json", "at": {"event": DELTA}}, {"type": "html"}], ids=str
)
async def test_many_interrupted_streams_leave_no_connection_behind(
    sandbox: Sandbox, upstream: ResponsesUpstream, fault: dict[str, Any]
) -> None:
    await sandbox.fault(fault, **POST, times=150)
    for _ in range(3):
        hearings = await asyncio.gather(*(hear(upstream, ask()) for _ in range(50)))
        assert {hearing.failure.code for hearing in hearings} == {"upstream_garbage"}
    hearings = await asyncio.gather(*(hear(upstream, ask()) for _ in range(50)))
    assert all(hearing.end for hearing in hearings)
    assert (await sandbox.stats())["response_posts"] == 200


# ---------------------------------------------------------------- bytes


def chunked(*pieces: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=repr)
async def test_a_stream_split_at_any_byte_reads_alike(
    an_upstream: AnUpstream, newline: bytes
) -> None:
    body = recording(*SPLIT_TEXTS, newline=newline)
    async with raw_server() as server:
        upstream = an_upstream(server.url)
        # Between CR and LF, and inside a character, is where it matters.
        places = [
            at
            for at in range(1, len(body))
            if at % 5 == 0 or body[at] in b"\r\n" or max(body[at - 1 : at + 1]) > 127
        ]
        server.scripts = [[plain(body[:at]), 0.01, body[at:]] for at in places]
        room = asyncio.Semaphore(40)

        async def one() -> tuple[str, str, Usage | None, int]:
            async with room:
                hearing = await hear(upstream, ask())
                return hearing.text, hearing.answer, hearing.end.usage, len(hearing.events)

        found = await asyncio.gather(*(one() for _ in places))
        assert len(server.requests) == len(places) > 150
    text = "".join(SPLIT_TEXTS)
    assert set(found) == {(text, text, Usage(3, 4, 7), 1 + len(SPLIT_TEXTS))}


async def test_a_stream_of_single_bytes_reads_alike(
    raw: RawServer, an_upstream: AnUpstream
) -> None:
    body = recording(*SPLIT_TEXTS)
    raw.scripts = [[chunked(*(bytes([byte]) for byte in body))]]
    hearing = await hear(an_upstream(raw.url), ask())
    assert hearing.text == hearing.answer == "".join(SPLIT_TEXTS)


@pytest.mark.parametrize(
    "noise",
    [
        b": keep-alive\n\n",
        b"id: 7\nretry: 5\n\n",
        b"\n\n\n",
        b"event: ping\n\n",
        b"\xef\xbb\xbf",
        b"data\n",
    ],
    ids=repr,
)
async def test_comments_ids_and_empty_events_say_nothing(
    raw: RawServer, an_upstream: AnUpstream, noise: bytes
) -> None:
    blocks = recording("a", "b").split(b"\n\n")[:-1]
    body = b"".join(noise + block + b"\n\n" for block in blocks)
    raw.scripts = [[plain(body)]]
    hearing = await hear(an_upstream(raw.url), ask())
    assert (hearing.text, hearing.answer) == ("ab", "ab")


async def test_a_last_event_without_its_empty_line_is_not_an_event(
    raw: RawServer, an_upstream: AnUpstream
) -> None:
    raw.scripts = [[plain(recording("a").removesuffix(b"\n"))]]
    hearing = await hear(an_upstream(raw.url), ask())
    assert hearing.failure.code == "upstream_interrupted"


async def test_a_request_asks_for_plain_bytes_and_a_stream_once(
    raw: RawServer, an_upstream: AnUpstream
) -> None:
    raw.scripts = [[plain(recording("a"))]]
    await hear(an_upstream(raw.url), ask("a question"))
    (request,) = raw.requests
    head, _, sent = request.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /v1/responses http/1.1"
    assert b"accept-encoding: identity" in lines
    assert b'"include_obfuscation":false' in sent.replace(b" ", b"")
    assert sent.count(b"a question") == 1


async def test_a_server_that_compresses_all_the_same_is_understood(
    raw: RawServer, an_upstream: AnUpstream
) -> None:
    body = gzip.compress(recording("a", "b"))
    head = HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body)
    raw.scripts = [[head + body]]
    hearing = await hear(an_upstream(raw.url), ask())
    assert hearing.text == hearing.answer == "ab"
