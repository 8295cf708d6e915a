"""The worker process: claim, execute, keep leases, hand over and stop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from app.container import WorkerServices
from app.domain.errors import DomainError, StorageUnavailableError
from app.domain.models import RunStatus
from app.ports import Claim, Wakes
from app.services.execution import Execution, Stop

log = logging.getLogger(__name__)

CLAIM_BATCH: Final = 10
EASE_S: Final = 0.01
"""A loop that needs longer for one round is busy: more runs would only delay those it has."""
MAX_UNEASE_S: Final = 0.5
REST: Final = 2
"""How many times as long as a claim took nothing is claimed after it: more comes together then."""
MAX_REST_S: Final = 0.03
POLL: Final = timedelta(seconds=1)
"""How long a lost wake-up may go unnoticed by workers."""
SWEEP_S: Final = 15.0
AWAY_RETRY_S: Final = 0.5
ABANDON_GRACE_S: Final = 5.0

_Ask = Callable[[Sequence[str]], Awaitable[Mapping[str, RunStatus]]]


class Worker:
    """One process's share of the queue."""

    def __init__(self, services: WorkerServices, *, concurrency: int, drain_s: float) -> None:
        self._services = services
        self._concurrency = concurrency
        self._drain_s = drain_s
        self._executions: dict[str, Execution] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wakes: Wakes | None = None
        self._stopping = asyncio.Event()
        lease_s = services.queue.policy.lease.total_seconds()
        self._beat_s = lease_s / 3
        self._lease_s = lease_s
        self._reaps_from = time.monotonic()
        self._takes_over_from = 0.0

    def stop(self) -> None:
        """Claim no more; end or hand over what runs."""
        self._stopping.set()
        if self._wakes is not None:
            self._wakes.add(None)

    async def run(self) -> None:
        """Work until stopped; then drain."""
        services = self._services
        await services.database.check_ready()
        # A loop that dies takes the process with it: leases run out, others take over.
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(loop(), name=f"worker-{loop.__name__}")
                for loop in (services.publisher.run, self._beat, self._keep_house)
            ]
            try:
                await self._claim()
                await self._drain()
            finally:
                for task in (*self._tasks, *loops):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ claims

    async def _claim(self) -> None:
        async with self._services.wakeups.listen("work") as wakes:
            self._wakes = wakes
            while not self._stopping.is_set():
                wake = await wakes.next(within=POLL)
                if self._stopping.is_set():
                    return
                began = time.monotonic()
                try:
                    # A new run says so; anything else may be a run to cancel, or to take over.
                    if wake is None and self._executions:
                        await self._heed(self._services.queue.held)
                    # Somebody waits for the first word of a new one; but not for ever first.
                    is_roomy = len(self._executions) < self._concurrency // 2
                    if wake is not None and is_roomy:
                        await self._claim_all()
                    if wake is None or time.monotonic() >= self._takes_over_from:
                        await self._take_over()
                    if wake is None or not is_roomy:
                        await self._claim_all()
                except StorageUnavailableError:
                    self._lost_contact()
                    await asyncio.sleep(AWAY_RETRY_S)
                else:
                    took = time.monotonic() - began
                    await asyncio.sleep(min(MAX_REST_S, REST * took))

    async def _claim_all(self) -> None:
        while room := self._room:
            claims = await self._services.queue.claim(room)
            self._begin(claims)
            if len(claims) < room:
                return
            await _at_ease()

    async def _take_over(self) -> None:
        now = time.monotonic()
        self._takes_over_from = now + POLL.total_seconds()
        while room := self._room:
            claims = await self._services.queue.take_over(
                room, reap=now >= self._reaps_from, held=list(self._executions)
            )
            self._begin(claims)
            if len(claims) < room:
                return
            await _at_ease()

    @property
    def _room(self) -> int:
        return min(CLAIM_BATCH, self._concurrency - len(self._executions))

    def _begin(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            execution = Execution(claim)
            self._executions[claim.run.id] = execution
            task = asyncio.create_task(self._execute(execution), name=claim.run.id)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _execute(self, execution: Execution) -> None:
        try:
            await self._services.executor.execute(execution)
        except Exception:
            # The lease runs out, and another attempt is made.
            log.exception("an execution failed", extra={"run_id": execution.claim.run.id})
        finally:
            del self._executions[execution.claim.run.id]
            # The session's next run may wait for just this.
            if self._wakes is not None:
                self._wakes.add([])

    def _lost_contact(self) -> None:
        """After an outage every lease has run out: its holders come first."""
        self._reaps_from = time.monotonic() + self._lease_s

    # ------------------------------------------------------------ leases

    async def _beat(self) -> None:
        while True:
            try:
                await self._heed(self._services.queue.heartbeat)
            except StorageUnavailableError:
                log.warning("the database is away; %d runs wait", len(self._executions))
                self._lost_contact()
                await asyncio.sleep(min(AWAY_RETRY_S, self._beat_s))
                continue
            await asyncio.sleep(self._beat_s)

    async def _heed(self, ask: _Ask) -> None:
        """Stop the runs that are held no more, or are to be cancelled."""
        held = dict(self._executions)
        found = await ask(list(held))
        for run_id, execution in held.items():
            status = found.get(run_id)
            if status is None and run_id in self._executions:
                execution.stop(Stop.ABANDONED)
            elif status is RunStatus.CANCELLING:
                execution.stop(Stop.CANCELLED)

    # ------------------------------------------------------------ the rest

    async def _keep_house(self) -> None:
        services = self._services
        while True:
            for duty in (services.queue.expire_overdue, services.upkeep.sweep):
                try:
                    await duty()
                except DomainError as error:
                    log.warning("housekeeping is put off: %s", error.code)
                except Exception:
                    log.exception("housekeeping failed")
            await asyncio.sleep(SWEEP_S)

    async def _drain(self) -> None:
        """End what ends in time; hand the rest over, resumable."""
        deadline = time.monotonic() + self._drain_s
        while self._tasks and time.monotonic() < deadline:
            await asyncio.wait(self._tasks, timeout=deadline - time.monotonic())
        left = list(self._executions)
        for execution in list(self._executions.values()):
            execution.stop(Stop.ABANDONED)
        if self._tasks:
            # What was read is written before the runs are given back.
            await asyncio.wait(self._tasks, timeout=ABANDON_GRACE_S)
        with suppress(StorageUnavailableError):
            handed = await self._services.queue.hand_over(left)
            log.info("stopped; %d runs handed over", handed)


async def _at_ease() -> None:
    """Let what was begun get ahead: a burst of new runs must not delay those that speak."""
    deadline = time.monotonic() + MAX_UNEASE_S
    before = time.monotonic()
    while before < deadline:
        await asyncio.sleep(0)
        now = time.monotonic()
        if now - before < EASE_S:
            return
        before = now
