"""A stream's time: kept alive while it is silent, ended when it is up, cut when nobody reads."""

import time
from collections.abc import AsyncIterator

import pytest

from app.domain.events import Event
from app.services.streams import (
    KEEP_ALIVE,
    KEEP_ALIVE_S,
    MAX_BLOCKED_S,
    PATIENCE_S,
    Channel,
    Stream,
)

EVENT = Event("sess_1", 1, "message.delta", None, "{}")


async def _nothing(_stream: Stream) -> list[Event]:
    return []


class Watched:
    """A stream, and whether it was cut."""

    def __init__(self, life_s: float = 600) -> None:
        self.now = time.monotonic()
        self.cuts = 0
        self.stream = Stream(
            Channel("sess_1"),
            _nothing,
            lambda _: None,
            cursor=0,
            run_id=None,
            over=None,
            preface=b"retry: 1\n\n",
            ends_at=self.now + life_s,
        )
        self.stream.on_cut = self._cut
        self.pieces: AsyncIterator[bytes] = self.stream.chunks()

    def _cut(self) -> None:
        self.cuts += 1

    def push(self, event: Event) -> None:
        self.stream.push(event, event.block())

    async def go_live(self) -> None:
        assert await anext(self.pieces) == b"retry: 1\n\n"
        self.push(EVENT)
        self.stream.is_live = True
        assert await anext(self.pieces) == EVENT.block()

    async def rest(self) -> bytes:
        return b"".join([piece async for piece in self.pieces])


@pytest.fixture
async def watched() -> Watched:
    found = Watched()
    await found.go_live()
    return found


async def test_a_silent_stream_is_kept_alive_and_only_a_silent_one(watched: Watched) -> None:
    stream = watched.stream
    stream.tick(watched.now + KEEP_ALIVE_S - 1)
    stream.blocked_since = watched.now
    stream.tick(watched.now + KEEP_ALIVE_S + 1)
    stream.blocked_since = None
    stream.tick(watched.now + KEEP_ALIVE_S + 1)
    stream.end()
    assert await watched.rest() == KEEP_ALIVE


async def test_a_send_that_waits_too_long_is_cut(watched: Watched) -> None:
    watched.stream.blocked_since = watched.now
    watched.stream.tick(watched.now + MAX_BLOCKED_S - 1)
    assert not watched.cuts
    watched.stream.tick(watched.now + MAX_BLOCKED_S + 1)
    assert watched.cuts


async def test_a_reader_that_is_always_slow_is_ended_when_its_time_is_up() -> None:
    watched = Watched(life_s=5)
    await watched.go_live()
    # Each send waits for a moment, and is never found done.
    watched.stream.blocked_since = watched.now + 5
    watched.stream.tick(watched.now + 6)
    watched.push(EVENT)
    assert not watched.cuts
    assert await watched.rest() == b"", "nothing new was taken"


async def test_a_reader_that_blocks_when_its_time_is_up_is_cut_within_half_a_minute() -> None:
    watched = Watched(life_s=5)
    await watched.go_live()
    late = watched.now + 5 + PATIENCE_S
    watched.stream.blocked_since = late
    watched.stream.tick(late - 1)
    assert not watched.cuts
    watched.stream.tick(late + 1)
    assert watched.cuts
    assert PATIENCE_S + 1 < 30


async def test_a_stream_that_ends_at_once_waits_for_no_reader(watched: Watched) -> None:
    watched.stream.blocked_since = watched.now
    watched.stream.end_at_once()
    watched.stream.tick(watched.now)
    assert watched.cuts


async def test_a_stream_that_ends_at_once_ends_cleanly_where_its_reader_reads(
    watched: Watched,
) -> None:
    second = EVENT._replace(seq=2)
    watched.push(second)
    watched.stream.end_at_once()
    watched.stream.tick(watched.now)
    assert not watched.cuts
    assert await watched.rest() == second.block()
