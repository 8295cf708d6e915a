"""The relay: one listener and one query per wake-up, fanned out in memory to all readers here.

No reader sees an event that is not committed: everything comes from the database, but for what
a request of this process has just committed there.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Final, NamedTuple

from app.domain.errors import (
    NotFoundError,
    ShuttingDownError,
    StorageUnavailableError,
    TooManyStreamsError,
)
from app.domain.events import Event, snapshot_data
from app.domain.models import Run, TutoringSession, User
from app.ports import Cursor, Database, LogState, PageQuery, UnitOfWork, Wake, Wakes, WakeUps
from app.services.sessions import owned
from app.services.streams import Channel, Over, Stream, retry_block

log = logging.getLogger(__name__)

PAGE: Final = 500
"""Events read at once for one session."""
SNAPSHOT_MESSAGES: Final = 20
LIFE_S: Final = (600.0, 900.0)
AWAY_RETRY_S: Final = 0.5


class NewRun(NamedTuple):
    """A run that was just enqueued, and what the log was told with it, up to its place."""

    run: Run
    events: Sequence[Event]


class Relay:
    """All readers of one process."""

    def __init__(
        self,
        database: Database,
        wakeups: WakeUps,
        *,
        news: Database,
        max_streams: int,
        poll: timedelta,
    ) -> None:
        self._database = database
        self._news = news
        """Of its own: requests that wait for a lock may hold all connections of the other."""
        self._wakeups = wakeups
        self._max_streams = max_streams
        self._poll = poll
        """How long a lost wake-up may go unnoticed."""
        self._channels: dict[str, Channel] = {}
        self._counts: Counter[str] = Counter()
        self._wakes: Wakes | None = None
        self._is_closing = False

    # ------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Read what is new for the sessions read here, for as long as the process serves."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            async with self._wakeups.listen("events") as wakes:
                self._wakes = wakes
                while True:
                    wake = await wakes.next(within=self._poll)
                    try:
                        await self._read_news(wake)
                    except StorageUnavailableError:
                        log.warning("the database is away; readers wait")
                    except Exception:
                        # Whatever it is, a process without its relay would keep its readers
                        # waiting for good.
                        log.exception("the log can't be read; readers wait")
                    else:
                        continue
                    await asyncio.sleep(AWAY_RETRY_S)
                    wakes.add(None)

    async def _read_news(self, wake: Wake) -> None:
        channels = self._channels
        named = channels.values() if wake is None else filter(None, map(channels.get, wake))
        warm: list[Channel] = []
        for channel in list(named):
            if channel.is_cold:
                channel.missed = True
            else:
                warm.append(channel)
        if not warm:
            return
        cursors = [Cursor(channel.session_id, channel.head) for channel in warm]
        async with self._news.autocommit() as uow:
            events = await uow.log.read(cursors, limit=PAGE)
            seen = {event.session_id for event in events}
            silent = [c.session_id for c in cursors if c.session_id not in seen]
            gone = await uow.log.gone(silent) if silent else []
        for event in events:
            reader = channels.get(event.session_id)
            # A channel that was closed and opened again meanwhile may stand further already.
            if reader is not None and not reader.is_cold and event.seq > reader.head:
                reader.publish(event)
        for session_id in gone:
            self._end_all(session_id)
        if len(events) >= PAGE and self._wakes is not None:
            self._wakes.add(list(seen))

    def _end_all(self, session_id: str) -> None:
        channel = self._channels.get(session_id)
        if channel is None:
            return
        for stream in list(channel.streams):
            stream.end_at_once()
        for changed in channel.watchers:
            changed.set()

    async def _tick(self) -> None:
        """Once a second: keep-alives, lifetimes, readers that do not read."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for channel in list(self._channels.values()):
                for stream in list(channel.streams):
                    stream.tick(now)

    def close(self) -> None:
        """End every stream at once, and open no more: clients reconnect elsewhere."""
        self._is_closing = True
        for session_id in list(self._channels):
            self._end_all(session_id)

    # ------------------------------------------------------------ readers

    def check_room(self, user: User) -> None:
        """Refuse before anything is written for a stream that could not be opened.

        Raises:
            TooManyStreamsError: The user has as many streams here as are allowed.
            ShuttingDownError: This process is going away.
        """
        if self._is_closing:
            raise ShuttingDownError
        if self._counts[user.id] >= self._max_streams:
            raise TooManyStreamsError

    def streams_left(self, user: User) -> int:
        """Return how many more streams the user may open here."""
        return max(0, self._max_streams - self._counts[user.id])

    async def follow_session(self, user: User, session_id: str, *, after: int | None) -> Stream:
        """Open a stream of the session's events: from now, or after the cursor.

        Raises:
            NotFoundError: There is no such session, or it is somebody else's.
            TooManyStreamsError: The user has as many streams here as are allowed.
        """
        self.check_room(user)
        with self._join(session_id) as channel:
            async with self._database.snapshot() as uow:
                session = await owned(uow, user, session_id)
                state = await uow.log.state(session_id)
                cursor = session.last_seq if after is None else after
                preface = b""
                if after is not None and _leads_nowhere(cursor, state):
                    preface = await _snapshot(uow, user, session)
                    cursor = session.last_seq
            # Others may have been opened, or the process told to go, since the first look.
            self.check_room(user)
            self._warm(channel, state.last_seq)
            return self._open(channel, user, cursor=cursor, preface=preface)

    async def follow_run(
        self, user: User, session_id: str, run_id: str, *, after: int | None
    ) -> Stream | None:
        """Open a stream of one run's events to its end; None when everything was read.

        Raises:
            NotFoundError: There is no such run, or it is somebody else's.
            TooManyStreamsError: The user has as many streams here as are allowed.
        """
        self.check_room(user)
        with self._join(session_id) as channel:
            async with self._database.snapshot() as uow:
                run = await uow.runs.get(user.id, session_id, run_id)
                if run is None:
                    raise NotFoundError
                session = await owned(uow, user, session_id)
                state = await uow.log.state(session_id)
                cursor = max(after or 0, run.turn - 1)
                preface = b""
                if after is not None and _leads_nowhere(cursor, state):
                    preface = await _snapshot(uow, user, session)
                    cursor = session.last_seq
                elif after is not None and await _is_read(uow, run, cursor):
                    return None
            self.check_room(user)
            self._warm(channel, state.last_seq)
            over = Over(state.last_seq, run.ended_at) if run.ended_at is not None else None
            return self._open(channel, user, cursor=cursor, preface=preface, run=run, over=over)

    def follow_new_run(self, user: User, new: NewRun) -> Stream:
        """Open a stream of a run that this process has just enqueued, from its start."""
        run = new.run
        with self._join(run.session_id) as channel:
            channel.missed = True
            self._warm(channel, run.seq)
            preface = b"".join([event.block() for event in new.events if event.run_id == run.id])
            return self._open(channel, user, cursor=run.seq, preface=preface, run=run)

    @asynccontextmanager
    async def watch(self, session_id: str) -> AsyncGenerator[asyncio.Event]:
        """Set the event whenever a run of the session changes, or this process goes away."""
        changed = asyncio.Event()
        with self._join(session_id) as channel:
            channel.watchers.add(changed)
            try:
                if channel.is_cold:
                    async with self._database.snapshot() as uow:
                        self._warm(channel, (await uow.log.state(session_id)).last_seq)
                yield changed
            finally:
                channel.watchers.discard(changed)

    @property
    def is_closing(self) -> bool:
        """Whether this process is going away."""
        return self._is_closing

    @contextmanager
    def _join(self, session_id: str) -> Generator[Channel]:
        """Hold a session's channel; its last reader may leave while the next one comes."""
        channel = self._channels.get(session_id)
        if channel is None:
            channel = self._channels[session_id] = Channel(session_id)
        channel.joining += 1
        try:
            yield channel
        finally:
            channel.joining -= 1
            self._drop_if_unused(channel)

    def _warm(self, channel: Channel, head: int) -> None:
        if not channel.is_cold:
            return
        channel.is_cold = False
        channel.head = head
        if channel.missed and self._wakes is not None:
            self._wakes.add([channel.session_id])

    def _drop_if_unused(self, channel: Channel) -> None:
        if not channel.streams and not channel.joining:
            self._channels.pop(channel.session_id, None)

    def _open(  # noqa: PLR0913 - as many as a stream is made of
        self,
        channel: Channel,
        user: User,
        *,
        cursor: int,
        preface: bytes,
        run: Run | None = None,
        over: Over | None = None,
    ) -> Stream:
        life = min(
            random.uniform(*LIFE_S),  # noqa: S311 - jitter
            user.principal.expires_at - time.time(),  # noqa: TID251 - written by its signer
        )

        async def read_on(stream: Stream) -> list[Event]:
            return await self._read_on(channel, stream, run)

        def leave(stream: Stream) -> None:
            channel.streams.discard(stream)
            self._counts[user.id] -= 1
            if not self._counts[user.id]:
                del self._counts[user.id]
            self._drop_if_unused(channel)

        stream = Stream(
            channel,
            read_on,
            leave,
            cursor=cursor,
            run_id=run.id if run else None,
            over=over,
            preface=retry_block() + preface,
            ends_at=time.monotonic() + life,
        )
        channel.streams.add(stream)
        self._counts[user.id] += 1
        if self._is_closing:
            # It was on its way while the others were ended.
            stream.end_at_once()
        return stream

    async def _read_on(self, channel: Channel, stream: Stream, run: Run | None) -> list[Event]:
        """Read the next page after a stream's cursor, and move the cursor past it."""
        head = stream.head
        async with self._database.autocommit() as uow:
            if run is not None:
                events = await uow.log.read_run(run, after=stream.cursor, limit=PAGE)
            else:
                cursor = Cursor(channel.session_id, stream.cursor)
                events = await uow.log.read([cursor], limit=PAGE)
        last = events[-1].seq if events else 0
        # A page that is not full holds all that there was when the head was noted.
        stream.cursor = last if len(events) == PAGE else max(last, head)
        return events


async def _is_read(uow: UnitOfWork, run: Run, cursor: int) -> bool:
    return run.status.is_end and not await uow.log.read_run(run, after=cursor, limit=1)


def _leads_nowhere(cursor: int, state: LogState) -> bool:
    return cursor > state.last_seq or cursor < state.pruned_seq


async def _snapshot(uow: UnitOfWork, user: User, session: TutoringSession) -> bytes:
    """Encode a `reset`: where a reader stands whose cursor leads nowhere."""
    newest = await uow.messages.list(session.id, PageQuery(limit=SNAPSHOT_MESSAGES))
    run = None
    if session.active_run_id is not None:
        run = await uow.runs.get(user.id, session.id, session.active_run_id)
    data = snapshot_data(
        session.id,
        session.last_seq,
        await uow.log.now(),
        [message.body() for message in reversed(newest.items)],
        None if run is None else run.body(),
    )
    return Event(session.id, session.last_seq, "reset", None, data).block()
