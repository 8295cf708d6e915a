"""What goes wrong beside the kills: upstream faults, frozen processes, database restarts."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.chaos.processes import Slot
from tests.chaos.stage import LEASE_S, Stage
from tests.chaos.upstream import AWAY

ANSWER: Final = "/v1/responses"
EVENTS: Final = (
    "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
    "output_text.done", "content_part.done", "output_item.done", "completed",
)  # fmt: skip


def _status(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "status", "status": number, **more}


def _in_stream(kind: str, event: str = "output_text.delta", **more: Any) -> dict[str, Any]:
    return {"type": kind, "at": {"event": f"response.{event}", "nth": 1}, **more}


FAULTS: Final[tuple[dict[str, Any], ...]] = (
    *(_status(number) for number in (400, 401, 403, 408, 409, 429, 500, 503)),
    _status(429, retry_after=1),
    _status(503, retry_after=1),
    _status(500, after_work=True),
    _status(429, code="insufficient_quota"),
    _status(400, code="context_length_exceeded"),
    _status(400, code="conversation_locked"),
    _status(404, message="Conversation with id 'conv_1' not found."),
    _status(400, message="No tool output found for function call call_1."),
    {"type": "html"},
    {"type": "json_body"},
    {"type": "reset"},
    {"type": "reset", "after_work": True},
    {"type": "delay", "seconds": 0.7},
    {"type": "stall", "seconds": 6},
    {"type": "stuck"},
    {"type": "duplicate"},
    {"type": "fail", "after_deltas": 2},
    {"type": "fail", "after_deltas": 2, "code": "rate_limit_exceeded"},
    {"type": "fail", "after_deltas": 2, "code": "invalid_prompt"},
    {"type": "error", "after_deltas": 2},
    {"type": "incomplete", "after_deltas": 3},
    *(_in_stream(kind, event) for kind in ("reset", "eof") for event in EVENTS),
    _in_stream("reset", position="middle"),
    _in_stream("eof", position="after"),
    _in_stream("reset", finish=True),
    _in_stream("stall", "created", seconds=6),
    _in_stream("stall", seconds=6),
    _in_stream("drip", "created", chunk_bytes=400, interval_s=0.1),
    *(_in_stream(kind) for kind in ("garbage_json", "bad_utf8", "reorder", "drop")),
    _in_stream("drop", "created"),
    _in_stream("duplicate", count=3),
    _in_stream("no_sequence", "created"),
    _in_stream("unknown_event"),
    _in_stream("oversize", megabytes=50),
)
"""Every upstream fault that a run must survive, each for one request for an answer."""
ELSEWHERE: Final[tuple[dict[str, Any], ...]] = (
    _status(500),
    _status(503, retry_after=1),
    _status(500, after_work=True),
    {"type": "reset"},
    {"type": "reset", "after_work": True},
    {"type": "delay", "seconds": 1},
    {"type": "html"},
)
"""For the other calls: a thread that is opened, items that are read, deletions."""


class Weather:
    """Bad weather, under a seed."""

    def __init__(self, stage: Stage, seed: random.Random) -> None:
        self.stage = stage
        self.random = seed
        self._faults: list[dict[str, Any]] = []

    async def rage(self) -> None:
        """Go on until cancelled."""
        choices: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.70, self._fault),
            (0.10, self._freeze_worker),
            (0.05, self._freeze_api),
            (0.06, self._cut),
            (0.03, self._restart),
            (0.05, self._forget),
            (0.01, self._kill_sandbox),
        ]
        weights = [weight for weight, _ in choices]
        while True:
            ((_, act),) = self.random.choices(choices, weights)
            try:
                await act()
            except AWAY:
                self.stage.counts["missed: weather"] += 1
            await asyncio.sleep(self.random.uniform(0.1, 0.8))

    async def _fault(self) -> None:
        """Spoil the next request for an answer, or the next other call; each fault in its turn."""
        if not self._faults:
            self._faults = self.random.sample(FAULTS, len(FAULTS))
        rule: dict[str, Any] = {"method": "POST", "path": ANSWER, "action": self._faults.pop()}
        if self.random.random() < 0.2:
            action = self.random.choice(ELSEWHERE)
            rule = {"path": "/v1/conversations*", "action": action}
        await self.stage.sandbox.admin("POST", "faults", rule)
        self.stage.counts["upstream faults"] += 1

    async def _freeze_worker(self) -> None:
        seconds = self.random.uniform(LEASE_S * 1.2, LEASE_S * 4)
        await self.freeze(self.random.choice(self.stage.of("worker")), seconds)

    async def _freeze_api(self) -> None:
        await self.freeze(self.random.choice(self.stage.of("api")), self.random.uniform(0.2, 3))

    async def freeze(self, slot: Slot, seconds: float) -> None:
        """Stop a process, and let it go on as if nothing had been."""
        if not await self.stage.is_up(slot) or not slot.signal(signal.SIGSTOP):
            return
        pid, slot.is_frozen = slot.pid, True
        self.stage.counts[f"freeze {slot.kind}"] += 1
        asyncio.get_running_loop().call_later(seconds, self._thaw, slot, pid)

    def _thaw(self, slot: Slot, pid: int) -> None:
        if slot.pid == pid:
            slot.signal(signal.SIGCONT)
            slot.is_frozen = False

    async def _cut(self) -> None:
        await self.stage.cut_connections()
        self.stage.counts["connections cut"] += 1

    async def _restart(self) -> None:
        mode = self.random.choice(("fast", "immediate"))
        await self.stage.restart_postgres(mode)
        self.stage.counts[f"postgres {mode}"] += 1

    async def _forget(self) -> None:
        """Let the upstream lose every thread, as by a restart."""
        await self.stage.sandbox.admin("POST", "reset", {"keep": ["posts", "pace"]})
        self.stage.counts["upstream forgot"] += 1

    async def _kill_sandbox(self) -> None:
        await self.stage.sandbox.kill()
        self.stage.counts["kill sandbox"] += 1
