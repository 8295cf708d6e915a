"""`kill -9`, at random and at chosen points, and stops in order.

A point is reached from outside: the sandbox stalls just there, or the row that the next commit
needs is locked, and the database and the sandbox say when the process has come so far.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from tests.chaos.driver import Crowd
from tests.chaos.probe import REACH_S, SHOWN, Probe
from tests.chaos.processes import Slot
from tests.chaos.stage import STOP_S, Stage
from tests.chaos.upstream import AWAY
from tests.stack import until

STALL_S: Final = 4.0
DELTA: Final = "response.output_text.delta"
HAS_NO_THREAD: Final = """
AND status = 'in_progress'
AND (SELECT upstream_thread_id FROM sessions s WHERE s.id = r.session_id) IS NULL
"""
STORED: Final = """
SELECT count(*) AS n FROM messages WHERE session_id = $1 AND content::text LIKE '%' || $2 || '%'
"""

Point = Callable[[], Awaitable[None]]


class Injector:
    """Kills until enough were killed."""

    def __init__(self, stage: Stage, crowd: Crowd, seed: random.Random) -> None:
        self.stage = stage
        self.random = seed
        self.crowd = crowd
        self.probe = probe = Probe(stage, crowd)
        self._talk, self._ask, self._stalled = probe.talk, probe.ask, probe.stalled
        self._holder, self._count, self._locked = probe.holder, probe.count, probe.locked
        self._all_said, self.prober = probe.all_said, probe.student
        self.kills = 0
        self._points: list[tuple[str, Point]] = [
            ("worker at random", self._at_random("worker")),
            ("worker before claim", self._before_claim),
            ("worker at claim", self._at_claim),
            ("worker after claim", self._after_claim),
            ("worker at POST", self._at_post),
            ("worker before first token", self._before_token),
            ("worker after first token", self._after_token),
            ("worker before last commit", self._before_end),
            ("worker in last commit", self._in_commit),
            ("worker after last commit", self._after_end),
            ("api at random", self._at_random("api")),
            ("api in POST", self._in_post),
            ("api after commit", self._after_post),
            ("api while streaming", self._while_streaming),
        ]

    async def kill(self, wanted: int, *, within: float) -> None:
        """Kill so many, at every point in turn, or until the time is up."""
        deadline = asyncio.get_running_loop().time() + within
        points: list[tuple[str, Point]] = []
        while self.kills < wanted and asyncio.get_running_loop().time() < deadline:
            if not points:
                points = self.random.sample(self._points, len(self._points))
                await self._stop()
            name, reach = points.pop()
            before = self.kills
            try:
                await reach()
            except (AssertionError, TimeoutError, *AWAY):
                # Other trouble kept it from there: any moment is as good.
                self.stage.counts[f"missed: {name}"] += 1
            if self.kills == before:
                name = name.partition(" ")[0] + " at random"
                self._shoot(self.random.choice(self.stage.of(name.partition(" ")[0])))
            self.stage.counts[f"kill {name}"] += self.kills - before
            await asyncio.sleep(self.random.uniform(0, 0.5))

    def _shoot(self, slot: Slot | None) -> None:
        if slot is not None:
            slot.expected.add(-signal.SIGKILL)
            self.kills += slot.signal(signal.SIGKILL)

    async def _stop(self) -> None:
        """Stop one process in order; another takes its place."""
        kind = self.random.choice(("worker", "worker", "api"))
        slot = self.random.choice(self.stage.of(kind))
        if slot.exited is None or not await self.stage.is_up(slot):
            return
        slot.expected.add(0)
        exited = slot.exited
        slot.signal(signal.SIGTERM)
        self.stage.counts[f"stop {kind}"] += 1
        done, _ = await asyncio.wait({exited}, timeout=STOP_S)
        if not done:
            self.stage.failures.append(f"{kind}-{slot.number} did not stop in {STOP_S:.0f} s")
            slot.expected.add(-signal.SIGKILL)
            slot.signal(signal.SIGKILL)

    # ------------------------------------------------------------ workers

    def _at_random(self, kind: str) -> Point:
        async def reach() -> None:
            await asyncio.sleep(self.random.uniform(0, 1))
            self._shoot(await self._one_up(kind))

        return reach

    async def _one_up(self, kind: str) -> Slot:
        chosen = self.random.choice(self.stage.of(kind))

        async def is_up() -> bool:
            return await self.stage.is_up(chosen)

        await until(is_up, within=REACH_S)
        return chosen

    async def _before_claim(self) -> None:
        """Kill a worker that was told of a run and could not yet claim it."""
        workers, talk = self.stage.of("worker"), await self._talk()
        await self.stage.all_up("worker", within=REACH_S)
        for worker in workers:
            worker.is_frozen = worker.signal(signal.SIGSTOP)
        try:
            await self._ask(talk)
            await asyncio.sleep(0.1)
            self._shoot(self.random.choice(workers))
        finally:
            for worker in workers:
                worker.is_frozen = False
                worker.signal(signal.SIGCONT)

    async def _at_claim(self) -> None:
        """Kill as soon as a claim can be seen: perhaps its commit was not even answered."""
        run = await self._ask(await self._talk())
        self._shoot(await self._holder(run, "AND status = 'in_progress'"))

    async def _after_claim(self) -> None:
        """Kill while the claimed run's thread is being opened."""
        delay = {"type": "delay", "seconds": STALL_S}
        rule = {"method": "POST", "path": "/v1/conversations", "action": delay}
        talk = await self._talk()
        await self.stage.sandbox.admin("POST", "faults", rule)
        run = await self._ask(talk)
        await asyncio.sleep(0.2)
        self._shoot(await self._holder(run, HAS_NO_THREAD))

    async def _at_post(self) -> None:
        """Kill while the upstream has the request, and has not said a word."""
        run = await self._stalled({"type": "stall", "seconds": STALL_S})
        self._shoot(await self._holder(run))

    async def _before_token(self) -> None:
        """Kill when the generation has begun, and its first token is not there."""
        run = await self._stalled({"type": "stall", "at": {"event": DELTA}, "seconds": STALL_S})
        await asyncio.sleep(0.2)
        self._shoot(await self._holder(run))

    async def _after_token(self) -> None:
        """Kill when the first words are stored, and the next don't come."""
        at = {"event": DELTA, "nth": self.random.randint(2, 9)}
        run = await self._stalled({"type": "stall", "at": at, "seconds": STALL_S})
        await self._count(SHOWN, run)
        self._shoot(await self._holder(run))

    async def _before_end(self) -> None:
        """Kill when all is said but the end."""
        self._shoot(await self._holder(await self._all_said(STALL_S)))

    async def _in_commit(self) -> None:
        """Kill while the transaction that ends the run waits for its session's row."""
        run = await self._all_said(1.5)
        (row,) = await self.stage.fetch("SELECT session_id FROM runs WHERE id = $1", run)
        async with self._locked(row["session_id"]):
            self._shoot(await self._holder(run))
            await asyncio.sleep(0.1)

    async def _after_end(self) -> None:
        """Kill as soon as the end can be seen: what follows the commit may not have been done."""
        run = await self._ask(await self._talk())
        self._shoot(await self._holder(run, "AND ended_at IS NOT NULL"))

    # ------------------------------------------------------------ API processes

    async def _in_post(self) -> None:
        """Kill while the transaction of a question waits for its session's row."""
        victim, talk = await self._one_up("api"), await self._talk()
        has_key = self.random.random() < 0.5
        async with self._locked(
            talk.id, lambda: self.prober.post(talk, has_key=has_key, at=victim.number)
        ):
            self._shoot(victim)
            await asyncio.sleep(0.1)

    async def _after_post(self) -> None:
        """Kill as soon as a question is stored: its answer may not have been sent."""
        victim, talk = await self._one_up("api"), await self._talk()
        op = self.prober.operation("post", talk)
        op.key = op.word if self.random.random() < 0.5 else None
        self.crowd.spawn(
            self.prober.post(talk, op=op, has_key=op.key is not None, at=victim.number)
        )
        await self._count(STORED, talk.id, op.word)
        self._shoot(victim)

    async def _while_streaming(self) -> None:
        """Kill while somebody reads an answer there."""
        victim, talk = await self._one_up("api"), await self._talk()
        run = await self._ask(talk)
        await self._count(SHOWN, run)
        self._shoot(victim)
