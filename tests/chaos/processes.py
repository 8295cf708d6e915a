"""Processes of ours that can be killed by the hundred, kept going as a supervisor does."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.stack import ROOT


@dataclass
class Slot:
    """A place that a process of ours has, as a supervisor keeps it filled."""

    kind: str
    number: int
    env: dict[str, str]
    log: Path
    pid: int = 0
    worker_id: str | None = None
    exited: "asyncio.Future[int] | None" = None
    is_frozen: bool = False
    expected: set[int] = field(default_factory=set[int])
    """Exit codes that somebody asked for."""

    @property
    def is_alive(self) -> bool:
        """Whether there is a process now."""
        return self.exited is not None and not self.exited.done()

    def signal(self, number: int) -> bool:
        """Send a signal, if there is anybody to send it to."""
        if self.is_alive:
            os.kill(self.pid, number)
        return self.is_alive


class Nursery:
    """The other end of `tests.chaos.nursery`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._born: asyncio.Queue[tuple[int, asyncio.Future[int]]] = asyncio.Queue()
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._turn = asyncio.Lock()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, log: Path) -> "Nursery":
        """Start it."""
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.chaos.nursery"),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=sink,
            )
        return cls(process)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            if "born" in told:
                # Known before its end can be told.
                end = asyncio.get_running_loop().create_future()
                self._exits[told["born"]] = end
                self._born.put_nowait((told["born"], end))
            else:
                self._exits.pop(told["died"]).set_result(told["code"])

    async def bear(
        self, command: list[str], env: dict[str, str], log: Path
    ) -> "tuple[int, asyncio.Future[int]]":
        """Start a process of ours; return its pid, and its exit code to be."""
        order = json.dumps({"command": command, "env": env, "log": str(log)}) + "\n"
        async with self._turn:
            assert self._process.stdin is not None
            self._process.stdin.write(order.encode())
            await self._process.stdin.drain()
            return await self._born.get()

    async def close(self) -> None:
        """End it, and all that it bore."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reader
