"""The load: a process of its own that plays students and hands back what they saw.

Talks with the driver over its pipes, one line each: it prints `ready`, waits for `go`, prints
`done` when the window is over, then one JSON line of results. The driver reads the clocks of the
measured processes between those lines, so that preparing and parsing stay outside the window.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import uvloop

from bench.wire import Connection, Reading, Stream, read

Kind = Literal["upstream", "naive", "relay"]
SSE = "text/event-stream"
RUN_DEADLINE_S = 60.0
POLLS = 100


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What one client process is asked to do."""

    kind: Kind
    port: int
    mode: Literal["concurrent", "turns", "idle"]
    runs: int
    tokens: int = 100
    pace: int = 20
    ramp_s: float = 0.05
    bearers: tuple[str, ...] = ()


class Student:
    """One reader: a connection and, at the relay, a session."""

    connection: Connection

    def __init__(self, spec: Spec, number: int) -> None:
        self._spec = spec
        self._headers: dict[str, str] = {}
        if spec.bearers:
            self._headers["authorization"] = f"Bearer {spec.bearers[number % len(spec.bearers)]}"
        self._session = ""

    async def connect(self) -> None:
        """Dial, or dial again: servers hang up on connections that idle for 5 s."""
        if hasattr(self, "connection"):
            self.connection.close()
        self.connection = await Connection.open(self._spec.port)

    async def open_session(self) -> None:
        """Everything that a student does before the first question."""
        if self._spec.kind == "relay":
            session = await self.connection.json("POST", "/v1/sessions", {}, **self._headers)
            self._session = session["id"]

    def ask(self, text: str) -> Stream:
        """Post a question; the answer streams into what is returned."""
        headers = self._headers | {"accept": SSE}
        match self._spec.kind:
            case "upstream":
                path, body = "/v1/responses", {"model": "bench", "input": text, "stream": True}
            case "naive":
                path, body = "/chat", {"message": text}
            case "relay":
                path, body = f"/v1/sessions/{self._session}/messages", {"content": text}
        return self.connection.send("POST", path, body, **headers)

    def watch(self) -> Stream:
        """Open a stream that stays silent."""
        if self._spec.kind != "relay":
            return self.ask("silent")
        path = f"/v1/sessions/{self._session}/events"
        return self.connection.send("GET", path, **(self._headers | {"accept": SSE}))

    async def turn(self, text: str) -> Stream:
        """One question and its whole answer."""
        stream = self.ask(text)
        await asyncio.wait_for(self.connection.done(), RUN_DEADLINE_S)
        return stream

    async def poll(self, times: int) -> None:
        """Ask for the session's latest run again and again."""
        await self.connect()
        runs = f"/v1/sessions/{self._session}/runs"
        listed = await self.connection.json("GET", f"{runs}?limit=1", **self._headers)
        for _ in range(times - 1):
            await self.connection.json("GET", f"{runs}/{listed['data'][0]['id']}", **self._headers)


async def _say(word: str) -> None:
    print(word, flush=True)


async def _heard() -> None:
    await asyncio.to_thread(sys.stdin.readline)


async def _in_window(work: Callable[[], Awaitable[None]]) -> None:
    gc.collect()
    gc.disable()
    await _say("ready")
    await _heard()
    await work()
    await _say("done")


async def _admit(spec: Spec, count: int, *, at_once: int = 8) -> list[Student]:
    students = [Student(spec, number) for number in range(count)]
    gate = asyncio.Semaphore(at_once)

    async def admit(student: Student) -> None:
        async with gate:
            await student.connect()
            await student.open_session()

    await asyncio.gather(*map(admit, students))
    return students


async def concurrent(spec: Spec) -> dict[str, Any]:
    """N students ask once each, their starts spread evenly over the ramp."""
    students = await _admit(spec, spec.runs)
    text = f"tokens={spec.tokens} pace={spec.pace}"
    streams: list[Stream] = []

    async def run(student: Student, start: float) -> None:
        await asyncio.sleep(start - time.monotonic())
        streams.append(await student.turn(text))

    async def work() -> None:
        begin = time.monotonic() + 0.05
        step = spec.ramp_s / spec.runs
        await asyncio.gather(*(run(s, begin + i * step) for i, s in enumerate(students)))

    await _in_window(work)
    readings = [read(stream, tokens=spec.tokens) for stream in streams]
    settled = max(s.sent + r.first for s, r in zip(streams, readings, strict=True)) + 0.5
    return {
        "first_ms": [1e3 * r.first for r in readings],
        "token_ms": [1e3 * lag for r in readings for _, lag in r.tokens],
        "steady_ms": [1e3 * lag for r in readings for sent, lag in r.tokens if sent > settled],
        **_wire(readings, spec.tokens),
    }


async def turns(spec: Spec) -> dict[str, Any]:
    """One student at a time: each run in a session of its own, then as many in one session."""
    openers = await _admit(spec, spec.runs)
    text = f"tokens={spec.tokens} pace={spec.pace}"
    opening: list[Stream] = []
    later: list[Stream] = []

    async def work() -> None:
        for student in openers:
            await student.connect()
            opening.append(await student.turn(text))
            await asyncio.sleep(0.02)  # what settles after `done` must not meet the next turn
        for _ in range(spec.runs):
            later.append(await openers[-1].turn(text))
            await asyncio.sleep(0.02)

    await _in_window(work)
    read_opening = [read(stream, tokens=spec.tokens) for stream in opening]
    read_later = [read(stream, tokens=spec.tokens) for stream in later]
    if spec.kind == "relay":
        await _in_window(lambda: openers[-1].poll(POLLS))
    return {
        "opening_ms": [1e3 * r.first for r in read_opening],
        "later_ms": [1e3 * r.first for r in read_later],
        **_wire(read_opening + read_later, spec.tokens),
    }


async def idle(spec: Spec) -> dict[str, Any]:
    """Open streams and keep them, silent, until told."""
    warm = await _admit(spec, 40)
    for student in warm:
        student.watch()
        await student.connection.begun()
    for student in warm:
        student.connection.close()
    students = await _admit(spec, spec.runs)

    async def work() -> None:
        for start in range(0, len(students), 25):
            some = students[start : start + 25]
            for student in some:
                await student.connect()
            for student, stream in [(student, student.watch()) for student in some]:
                await asyncio.wait_for(student.connection.begun(), RUN_DEADLINE_S)
                if stream.status != 200:
                    raise RuntimeError(f"an idle stream was refused: {stream.status}")

    await _in_window(work)
    await _heard()
    return {"streams": len(students)}


def _wire(readings: list[Reading], tokens: int) -> dict[str, Any]:
    total = len(readings) * tokens
    return {
        "tokens": total,
        "bytes_per_token": sum(r.wire_bytes for r in readings) / total,
        "blocks_per_token": sum(r.blocks for r in readings) / total,
    }


def main() -> None:
    """Do what the first line of standard input asks."""
    fields = json.loads(sys.stdin.readline())
    spec = Spec(**fields | {"bearers": tuple(fields["bearers"])})
    modes = {"concurrent": concurrent, "turns": turns, "idle": idle}
    result = uvloop.run(modes[spec.mode](spec))
    # Not print(): with PYTHONUNBUFFERED a write that the pipe takes in part is cut off silently.
    with os.fdopen(os.dup(1), "wb") as out:
        out.write(json.dumps(result).encode() + b"\n")


if __name__ == "__main__":
    main()
