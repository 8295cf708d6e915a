"""One reader of one session's log: from the database until it has caught up, then live.

Catching up and going live cannot lose an event between them: a reader goes live in the same
step of the event loop in which it finds its cursor at its channel's head, and the channel's head
moves in the same step in which live readers are given what is new.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Final, NamedTuple

from app.domain.events import RUN_END_TYPES, Event, done_block
from app.domain.text import rfc3339

KEEP_ALIVE_S: Final = 15.0
KEEP_ALIVE: Final = b": keep-alive\n\n"
RETRY_MS: Final = (1000, 3000)
MAX_PENDING_BYTES: Final = 1 << 20
"""What a live reader may leave unread before it is cut; it resumes from the log."""
MAX_BLOCKED_S: Final = 20.0
"""How long one send may wait for a reader that does not read."""
PATIENCE_S: Final = 10.0
"""How long after its time is up a stream may wait for such a reader."""


def retry_block() -> bytes:
    """Say when to come back; not to all the same, or they would all come at once."""
    return f"retry: {random.randint(*RETRY_MS)}\n\n".encode()  # noqa: S311 - jitter


class Channel:
    """A session that somebody here reads."""

    __slots__ = ("head", "is_cold", "joining", "missed", "session_id", "streams", "watchers")

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.head = 0
        """The last `seq` that live readers were given."""
        self.is_cold = True
        """Until its head is known, wake-ups are only noted."""
        self.missed = False
        self.joining = 0
        """Who is about to read, or waits for a change."""
        self.streams: set[Stream] = set()
        self.watchers: set[asyncio.Event] = set()

    def publish(self, event: Event) -> None:
        """Give an event, encoded once, to all live readers, and move the head, in one step."""
        self.head = event.seq
        block = event.block()
        for stream in self.streams:
            if stream.is_live:
                stream.push(event, block)
        if self.watchers and event.type.startswith("run."):
            for changed in self.watchers:
                changed.set()


class Over(NamedTuple):
    """That a run was found ended when its stream was opened."""

    seq: int
    """The log's length then: to read up to there is all there is. The channel's head may be
    behind it still."""
    at: datetime
    """When the run ended."""


ReadOn = Callable[["Stream"], Awaitable[list[Event]]]
"""Reads what follows a stream's cursor from the database; moves the cursor."""


class Stream:
    """One reader: of a whole session, or of one run to its end."""

    __slots__ = (
        "_channel",
        "_ended",
        "_leave",
        "_over",
        "_pending",
        "_pending_bytes",
        "_preface",
        "_read_on",
        "_waiter",
        "blocked_since",
        "cursor",
        "ends_at",
        "is_cut",
        "is_live",
        "last_sent",
        "on_cut",
        "run_id",
    )

    def __init__(  # noqa: PLR0913 - a reader is made in one place, by the relay
        self,
        channel: Channel,
        read_on: ReadOn,
        leave: Callable[["Stream"], None],
        *,
        cursor: int,
        run_id: str | None,
        over: Over | None,
        preface: bytes,
        ends_at: float,
    ) -> None:
        self._channel = channel
        self._read_on = read_on
        self._leave = leave
        self._over = over
        self._preface = preface
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self.run_id = run_id
        self.cursor = cursor
        self.is_live = False
        self.is_cut = False
        self.on_cut: Callable[[], object] = self.end
        """Interrupts a send that waits for the reader."""
        self.ends_at = ends_at
        self.last_sent = time.monotonic()
        self.blocked_since: float | None = None

    @property
    def head(self) -> int:
        """How far the log is known to go."""
        return max(self._channel.head, self._over.seq if self._over else 0)

    def push(self, event: Event, block: bytes) -> None:
        """Queue an event, as it was encoded, for a live reader."""
        if event.seq <= self.cursor or self._ended:
            return
        self.cursor = event.seq
        if self.run_id is not None:
            if event.run_id != self.run_id:
                return
            self._queue(block)
            if event.type in RUN_END_TYPES:
                self._queue(event.done())
                self.end()
            return
        self._queue(block)

    def _queue(self, block: bytes) -> None:
        self._pending.append(block)
        self._pending_bytes += len(block)
        if self._pending_bytes > MAX_PENDING_BYTES:
            self.is_cut = True
            self.end()
        else:
            self._wake()

    def end(self) -> None:
        """End cleanly, after what is queued."""
        self._ended = True
        self._wake()

    def end_at_once(self) -> None:
        """End cleanly; a reader that does not read then and there is cut."""
        self.ends_at = float("-inf")
        self.end()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Give the place up; whoever opened the stream must call it, once."""
        self._leave(self)

    def tick(self, now: float) -> None:
        """Keep a silent stream alive, end an old one, cut one that does not read."""
        blocked_s = 0.0 if self.blocked_since is None else now - self.blocked_since
        is_late = now > self.ends_at + PATIENCE_S
        if self.blocked_since is not None and (
            self.is_cut or is_late or blocked_s > MAX_BLOCKED_S
        ):
            self.on_cut()
        elif now >= self.ends_at:
            # Also while a send waits: who reads slowly all the time is never found at ease.
            self.end()
        elif self.last_sent <= now - KEEP_ALIVE_S and not (self._pending or blocked_s):
            self._queue(KEEP_ALIVE)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield bytes to send, blocks that wait together in one piece, until the end."""
        yield self._preface
        async for caught_up in self._catch_up():
            yield caught_up
        # Asked for once: on Python 3.11 each asking is a system call.
        loop = asyncio.get_running_loop()
        while not self._ended or self._pending:
            if not self._pending:
                self._waiter = loop.create_future()
                await self._waiter
                self._waiter = None
                continue
            piece = b"".join(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
            yield piece

    async def _catch_up(self) -> AsyncIterator[bytes]:
        channel = self._channel
        while self.cursor < self.head and not self._ended:
            events = await self._read_on(self)
            if not events:
                continue
            yield b"".join([event.block() for event in events])
            if self.run_id is not None and events[-1].type in RUN_END_TYPES:
                yield events[-1].done()
                self._ended = True
                return
        if self._over is not None and not self._ended:
            yield done_block(channel.session_id, self._over.seq, rfc3339(self._over.at))
            self._ended = True
            return
        self.is_live = True
