"""Group commit: the drafts of all active runs of a worker, one transaction per tick.

A run's first delta, and every change of status, is written at once; a later delta when a tick
has passed since the last commit was begun, merged with what came meanwhile. A commit costs much
the same for one run as for twenty, so that behind one that was slow, as when many runs begin or
end together, what is urgent gathers too: until some times as long has passed as it took.

A session whose row somebody else holds, such as an API process that froze, is left out of the
ticks until the row is free: its student waits, the others do not.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from app.domain.errors import FencedError, StorageBusyError, StorageUnavailableError
from app.domain.events import Delta, Draft
from app.ports import Append, Claim, Database, ThreadMark

log = logging.getLogger(__name__)

TICK_S: Final = 0.030
GATHER: Final = 4
"""How many times as long as the last commit took, counted from its begin, what is urgent waits."""
AWAY_RETRY_S: Final = 0.25


class RunLog:
    """What one claimed run appends to its session's log."""

    def __init__(self, publisher: "Publisher", claim: Claim) -> None:
        self._publisher = publisher
        self._claim = claim
        self._last_seq: int | None = claim.last_seq
        self._drafts: list[Draft] = []
        self._response_id: str | None = None
        self._thread: ThreadMark | None = None
        self._flushed: asyncio.Future[None] | None = None
        self._in_flight = False
        self.is_fenced = False

    def append(self, *drafts: Draft) -> None:
        """Add drafts that are written at once."""
        self._drafts.extend(drafts)
        self._publisher.note(self, is_urgent=True)

    def delta(self, message_id: str, part: int, text: str) -> None:
        """Add text that is written at the next tick, merged with what waits for it."""
        last = self._drafts[-1] if self._drafts else None
        if isinstance(last, Delta) and last.part == part:
            last.texts.append(text)
            return
        self._drafts.append(Delta(message_id, self._claim.run.id, part, [text]))
        self._publisher.note(self, is_urgent=False)

    def note_response(self, response_id: str, *, is_urgent: bool) -> None:
        """Store the upstream's id of the generation, at once or with the next events."""
        self._response_id = response_id
        if is_urgent:
            self._publisher.note(self, is_urgent=True)

    def mark_thread(self, mark: ThreadMark) -> None:
        """Store what the upstream thread holds with the next events."""
        self._thread = mark

    @property
    def _waits(self) -> bool:
        """Whether anything is to be written."""
        return bool(self._drafts) or self._response_id is not None

    async def flush(self) -> None:
        """Wait until all that was added is committed.

        Raises:
            FencedError: The run is not this worker's any more; nothing more will be written.
        """
        if self.is_fenced:
            raise FencedError
        if not self._waits and not self._in_flight:
            return
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        if self._waits:
            self._publisher.note(self, is_urgent=True)
        # The writer goes on although this run's task may be cancelled while it waits.
        await asyncio.shield(self._flushed)

    def take(self) -> Append:
        """Hand what waits to the publisher."""
        append = Append(
            self._claim.run.session_id,
            self._drafts,
            run_id=self._claim.run.id,
            fence=self._claim.fence,
            last_seq=self._last_seq,
            response_id=self._response_id,
            thread=self._thread,
        )
        self._drafts, self._response_id, self._thread = [], None, None
        self._in_flight = True
        return append

    def put_back(self, append: Append) -> None:
        """Take back what could not be written yet."""
        self._in_flight = False
        self._drafts = [*append.drafts, *self._drafts]
        self._response_id = self._response_id or append.response_id
        self._thread = self._thread or append.thread
        self._publisher.note(self, is_urgent=False)

    def settle(self, append: Append, *, is_refused: bool) -> None:
        """Take note of how it went, and tell who waits in `flush`."""
        self._in_flight = False
        if append.stamped:
            self._last_seq = append.stamped[-1].seq
        self.is_fenced = self.is_fenced or is_refused
        if self._flushed is not None and (is_refused or not self._waits):
            flushed, self._flushed = self._flushed, None
            if not flushed.done():
                if is_refused:
                    flushed.set_exception(FencedError())
                    flushed.exception()  # Retrieved here: the waiter may have been cancelled.
                else:
                    flushed.set_result(None)


class Publisher:
    """The one writer of a worker's runs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[RunLog, None] = {}
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()
        self._held: set[str] = set()
        """Sessions whose rows somebody else held at the last tick."""

    def open(self, claim: Claim) -> RunLog:
        """Return the log of a run that was just claimed."""
        return RunLog(self, claim)

    def note(self, run_log: RunLog, *, is_urgent: bool) -> None:
        """Remember that a run has something to write."""
        self._waiting[run_log] = None
        self._arrived.set()
        if is_urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Write what waits, tick by tick, until cancelled."""
        started = took = 0.0
        while True:
            await self._arrived.wait()
            left = started + TICK_S - time.monotonic()
            if left > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._urgent.wait()
                await asyncio.sleep(started + min(TICK_S, took * GATHER) - time.monotonic())
            self._arrived.clear()
            self._urgent.clear()
            batch = {run_log: run_log.take() for run_log in self._waiting}
            self._waiting.clear()
            started = time.monotonic()
            # Waiting for them again would cost every tick the time that a lock may take.
            is_wary, self._held = bool(self._held), set()
            refused = await self._write(list(batch.values()), is_wary=is_wary)
            took = time.monotonic() - started
            for run_log, append in batch.items():
                if append.session_id in self._held:
                    run_log.put_back(append)
                else:
                    run_log.settle(append, is_refused=id(append) in refused)

    async def _write(self, appends: Sequence[Append], *, is_wary: bool) -> set[int]:
        """Write until it is known to be written, or held; return the refused ones."""
        refused: set[int] = set()
        left = list(appends)
        while left:
            try:
                if is_wary:
                    return refused | await self._write_free(left)
                async with self._database.autocommit(writes=True) as uow:
                    left = await uow.log.append(left)
                if not left:
                    return refused
                # Somebody else wrote to these logs, or holds their runs now.
                for append in left:
                    append.last_seq = None
                async with self._database.transaction() as uow:
                    fenced = await uow.log.append(left)
                return refused | {id(append) for append in fenced}
            except StorageBusyError:
                log.warning("somebody else holds a session; its run waits to write")
                is_wary = True
            except StorageUnavailableError:
                log.warning("the database is away; %d runs wait to write", len(left))
                left = await self._unwritten(left)
            except Exception:
                if len(left) == 1:
                    # Whatever is wrong with this one must not stop the others.
                    log.exception("a run can't be written")
                    return refused | {id(left[0])}
                for append in left:
                    refused |= await self._write([append], is_wary=is_wary)
                return refused
        return refused

    async def _write_free(self, appends: Sequence[Append]) -> set[int]:
        """Write to the logs that nobody else holds; return the refused ones."""
        async with self._database.transaction() as uow:
            held = await uow.log.held([append.session_id for append in appends])
            free = [append for append in appends if append.session_id not in held]
            for append in free:
                append.last_seq = None
            fenced = await uow.log.append(free)
        self._held |= held
        return {id(append) for append in fenced}

    async def _unwritten(self, appends: Sequence[Append]) -> list[Append]:
        """Once the database is back, return what the failed commit did not write after all."""
        while True:
            await asyncio.sleep(AWAY_RETRY_S)
            try:
                async with self._database.transaction() as uow:
                    left: list[Append] = []
                    for append in appends:
                        if await uow.log.is_written(append):
                            # The wake-up went with the connection.
                            uow.wake_readers(append.session_id)
                        else:
                            left.append(append)
                    return left
            except StorageUnavailableError:
                continue
