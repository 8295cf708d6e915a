"""Readers of event streams that come back after every cut, at another API process."""

import asyncio
import json
from contextlib import suppress
from sys import intern
from typing import Any, Final

import httpx2

from tests.chaos.recorder import Operation, Reading, Seen, Try, now
from tests.chaos.student import PAUSE_S, Student, Talk
from tests.stack import blocks_of

SILENCE_S: Final = 20.0
"""A stream says something every 15 s, or its process is frozen or gone."""


class Follower:
    """One reader of one session, or of one run to its end."""

    def __init__(
        self,
        student: Student,
        talk: Talk,
        run: str | None = None,
        *,
        after: int | None = 0,
        cuts: float = 0.01,
    ) -> None:
        self.student = student
        self.talk = talk
        self.run = run
        self.cursor = after
        self.cuts = cuts
        """How likely it is, at each piece, that the reader's own network fails."""
        self.is_over = False
        self.connections = 0

    @property
    def path(self) -> str:
        """Where it reads."""
        part = f"/runs/{self.run}" if self.run else ""
        return f"/v1/sessions/{self.talk.id}{part}/events"

    async def follow(self, *, upto: int | None = None) -> None:
        """Read until the run's end, the session's deletion, or the log's place `upto`."""
        api = self.student.random.randrange(len(self.student.http))
        while not self.is_over and (upto is None or (self.cursor or 0) < upto):
            await self._read(api, upto)
            api = (api + 1) % len(self.student.http)
            await asyncio.sleep(PAUSE_S)

    async def _read(self, api: int, upto: int | None) -> None:
        student = self.student
        reading = Reading(student.name, api, self.talk.id, self.run, self.cursor, now())
        student.history.read(reading)
        self.connections += 1
        headers = {} if self.cursor is None else {"Last-Event-ID": str(self.cursor)}
        request = student.http[api].stream("GET", self.path, headers=headers)
        await self._consume(request, reading, upto)

    async def post(self, op: Operation, body: Any) -> None:
        """Ask with `Accept: text/event-stream`, and read the answer as it comes."""
        student = self.student
        api = student.random.randrange(len(student.http))
        attempt = Try(now(), float("inf"))
        op.tries.append(attempt)
        headers = {"Accept": "text/event-stream", "Idempotency-Key": str(op.key)}
        path = f"/v1/sessions/{self.talk.id}/messages"
        request = student.http[api].stream("POST", path, json=body, headers=headers)
        reading = Reading(student.name, api, self.talk.id, None, None, now())
        await self._consume(request, reading, None, attempt)
        attempt.returned = now()

    async def _consume(
        self, request: Any, reading: Reading, upto: int | None, attempt: Try | None = None
    ) -> None:
        try:
            async with request as response:
                reading.status, reading.answered = response.status_code, now()
                if attempt is not None:
                    attempt.status = response.status_code
                if reading.status != 200:
                    # An EventSource gives up; the run is over, or the session is gone.
                    self.is_over = reading.status in {204, 404}
                    body = await response.aread()
                    if attempt is not None:
                        attempt.body = json.loads(body)
                    return
                if attempt is not None:
                    self.run = reading.run = response.headers["location"].rpartition("/")[2]
                    self.student.history.read(reading)
                await self._blocks(response, reading, upto)
        except (httpx2.TransportError, TimeoutError):
            reading.end = "cut"

    async def _blocks(self, response: Any, reading: Reading, upto: int | None) -> None:
        pending = b""
        pieces = aiter(response.aiter_bytes())
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                reading.end = reading.end if reading.end == "done" else "closed"
                return
            whole, cut, pending = (pending + piece).rpartition(b"\n\n")
            at = now()
            for block in blocks_of((whole + cut).decode()):
                reading.blocks.append(Seen(block.id, block.event, intern(block.data), at))
                if block.event == "done":
                    reading.end, self.is_over = "done", True
                elif block.id is not None:
                    self.cursor = int(block.id)
            is_cut = self.student.random.random() < self.cuts
            if is_cut or (upto is not None and (self.cursor or 0) >= upto):
                reading.end = reading.end if reading.end == "done" else "cut"
                return


async def stop(task: "asyncio.Task[Any]") -> None:
    """End a reader."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
