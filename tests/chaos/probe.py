"""Runs that are brought to a chosen point, seen from outside, and who holds them just then."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tests.chaos.driver import Crowd
from tests.chaos.processes import Slot
from tests.chaos.stage import Stage
from tests.chaos.student import Student, Talk
from tests.chaos.weather import ANSWER
from tests.stack import until

REACH_S: Final = 8.0
"""Trouble of another kind may keep a run from a point: it is then given up."""
SHOWN: Final = "SELECT count(*) AS n FROM events WHERE run_id = $1 AND type = 'message.delta'"
HOLDER: Final = "SELECT worker_id FROM runs r WHERE id = $1"
BLOCKED: Final = "SELECT count(*) AS n FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"


class Probe:
    """A student whose runs are watched from all sides."""

    def __init__(self, stage: Stage, crowd: Crowd) -> None:
        self.stage = stage
        self.crowd = crowd
        self.student: Student = crowd.student("prober")
        self._word = ""

    async def talk(self) -> Talk:
        found = await self.crowd.converse(self.student)
        assert found is not None
        return found

    async def ask(self, talk: Talk, fault: Any = None) -> str:
        """Ask in a session of its own, with a fault for just this question."""
        op = self.student.operation("post", talk)
        op.key = self._word = op.word
        if fault is not None:
            rule = {"method": "POST", "path": ANSWER, "text": op.word, "id": op.word}
            await self.stage.sandbox.admin("POST", "faults", rule | {"action": fault})
        run = await self.student.post(talk, op=op)
        assert run is not None
        self.crowd.watch(self.student, talk, run)
        return run

    async def stalled(self, fault: dict[str, Any]) -> str:
        """Ask, and wait until the upstream has taken the question and met the fault."""
        run = await self.ask(await self.talk(), fault)

        async def has_fired() -> bool:
            rules = (await self.stage.sandbox.admin("GET", "faults"))["rules"]
            return any(rule["fired"] for rule in rules if rule["id"] == self._word)

        await until(has_fired, within=REACH_S)
        return run

    async def all_said(self, stall_s: float) -> str:
        """Ask, and wait until the whole answer is stored and only its end is missing."""
        at = {"event": "response.completed"}
        run = await self.stalled({"type": "stall", "at": at, "seconds": stall_s})
        shown = -1

        async def is_quiet() -> bool:
            nonlocal shown
            before, shown = shown, (await self.stage.fetch(SHOWN, run))[0]["n"]
            return bool(before == shown > 0)

        await until(is_quiet, within=REACH_S, every=0.25)
        return run

    async def holder(self, run: str, condition: str = "") -> Slot | None:
        """Wait for a condition of a run's row; return the worker that holds it just then."""
        connection = await asyncpg.connect(self.stage.database_url, timeout=5)
        try:

            async def found() -> Any:
                return await connection.fetchval(f"{HOLDER} {condition}", run)

            name = await until(found, within=REACH_S, every=0.002)
        finally:
            await connection.close()
        return next((each for each in self.stage.of("worker") if each.worker_id == name), None)

    async def count(self, query: str, *arguments: str) -> None:
        """Wait until there is some."""
        connection = await asyncpg.connect(self.stage.database_url, timeout=5)
        try:

            async def found() -> Any:
                return await connection.fetchval(query, *arguments)

            await until(found, within=REACH_S, every=0.002)
        finally:
            await connection.close()

    @asynccontextmanager
    async def locked(
        self, session: str, act: Callable[[], Coroutine[Any, Any, Any]] | None = None
    ) -> AsyncIterator[None]:
        """Lock a session's row, let something happen, and wait until somebody needs the row."""
        connection = await asyncpg.connect(self.stage.database_url, timeout=5)
        try:
            async with connection.transaction():
                await connection.execute("SELECT FROM sessions WHERE id = $1 FOR UPDATE", session)
                if act is not None:
                    self.crowd.spawn(act())
                pid = connection.get_server_pid()
                other = await asyncpg.connect(self.stage.database_url, timeout=5)
                try:
                    await until(lambda: other.fetchval(BLOCKED, pid), within=4, every=0.01)
                finally:
                    await other.close()
                yield
        finally:
            await connection.close()
