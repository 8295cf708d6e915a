"""Ten times too much: measure what can be sustained, send ten times that, see what becomes of it.

    python -m tests.e2e.overload            # a minute of it, on loopback, with its own Postgres

Loopback only, one API and one worker process. What is accepted has to finish, what is refused has
to say when to come back, and the API has to be well soon after.
"""

import argparse
import asyncio
import json
import re
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import uvloop

from app.adapters.postgres.embedded import temporary_postgres
from app.adapters.postgres.migrate import migrate
from tests.e2e.crew import hire, started
from tests.e2e.invariants import check, check_logs
from tests.stack import TERMINAL, Stack, token, until

TIMES = 10
USERS = 100
SESSIONS_EACH = 4
AT_ONCE = 20
"""Questions at once while the sustainable rate is measured: the worker is never idle."""
CALLERS = 1000
"""Connections: what finds none free is not sent, as a front door would not."""
QUESTION = {"content": "What is 20 + 22?", "on_active_run": "enqueue"}
SETTINGS = {"MAX_QUEUED_RUNS": "1000", "LOG_LEVEL": "warning"}


@dataclass
class Report:
    """What became of it."""

    sustained: float = 0
    """Runs a second, asked for and finished, with `AT_ONCE` of them at once."""
    wanted: float = 0
    """Ten times that."""
    offered: float = 0
    """POSTs a second that were sent."""
    skipped: int = 0
    """POSTs that found no connection free."""
    answers: Counter[str] = field(default_factory=Counter[str])
    """By status and code."""
    without_retry_after: int = 0
    slowest_s: float = 0
    accepted: list[str] = field(default_factory=list[str])
    live_s: list[float] = field(default_factory=list[float])
    """How long `/healthz` took, once a second, in the middle of it."""
    well_after_s: float = 0
    """From the last POST until `/readyz` and a read were answered in a second together."""
    finished_after_s: float = 0
    statuses: Counter[str] = field(default_factory=Counter[str])
    """Of the runs that were accepted, at the end."""

    def __str__(self) -> str:
        live = sorted(self.live_s)
        return (
            f"sustained {self.sustained:.0f} runs/s; sent {self.offered:.0f} of "
            f"{self.wanted:.0f} POSTs/s ({self.skipped} found no connection of {CALLERS} free)\n"
            f"answers {dict(self.answers)}; {self.without_retry_after} refused without "
            f"Retry-After; the slowest took {self.slowest_s:.1f} s\n"
            f"/healthz meanwhile: median {live[len(live) // 2]:.2f} s, worst {live[-1]:.2f} s\n"
            f"well {self.well_after_s:.1f} s after the last POST; all {len(self.accepted)} runs "
            f"that were accepted had ended after {self.finished_after_s:.1f} s: "
            f"{dict(self.statuses)}"
        )


LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: [1-9]", re.IGNORECASE)


def post(path: str, headers: dict[str, str]) -> bytes:
    """Write a question as it goes over the wire."""
    body = json.dumps(QUESTION)
    lines = [f"POST {path}/messages HTTP/1.1", "Host: here", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()


class Caller(asyncio.Protocol):
    """One connection that asks, cheaply: a client that is busy itself sends no ten times."""

    def __init__(self, report: Report, idle: "deque[Caller]") -> None:
        self._report = report
        self._idle = idle
        self._read = b""
        self._begun = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._idle.append(self)

    def ask(self, request: bytes) -> None:
        """Send a question; the answer is counted when it is there."""
        self._begun = time.monotonic()
        self._read = b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, _, body = self._read.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if length is None or len(body) < int(length[1]):
            return
        report, told = self._report, json.loads(body)
        report.slowest_s = max(report.slowest_s, time.monotonic() - self._begun)
        status = head[9:12].decode()
        if status == "202":
            report.accepted.append(told["run"]["id"])
            report.answers[status] += 1
        else:
            report.answers[f"{status} {told['code']}"] += 1
            report.without_retry_after += RETRY_AFTER.search(head) is None
        self._idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self not in self._idle:
            self._report.answers["lost"] += 1

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


class Crowd:
    """Many users with some sessions each, at one API process."""

    def __init__(self, stack: Stack, http: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.http = http
        self.url = stack.api_urls[0]
        self.places: list[tuple[str, dict[str, str]]] = []
        self.report = Report()

    async def gather(self) -> None:
        """Open everybody's sessions."""
        for number in range(USERS):
            headers = {"Authorization": f"Bearer {token(f'crowd-{number}')}"}
            for _ in range(SESSIONS_EACH):
                url = f"{self.url}/v1/sessions"
                async with self.http.post(url, json={}, headers=headers) as response:
                    assert response.status == 201, await response.text()
                    session = (await response.json())["id"]
                self.places.append((f"{url}/{session}", headers))

    async def sustain(self, seconds: float) -> None:
        """Ask and wait for the answer, some at once, again and again."""
        finished = 0
        until_s = time.monotonic() + seconds

        async def ask_on(number: int) -> None:
            nonlocal finished
            path, headers = self.places[number * SESSIONS_EACH]
            while time.monotonic() < until_s:
                url = f"{path}/messages"
                async with self.http.post(url, json=QUESTION, headers=headers) as response:
                    assert response.status == 202, await response.text()
                    run: dict[str, Any] = (await response.json())["run"]
                while run["status"] not in TERMINAL:
                    params = {"wait": "20", "known": run["status"]}
                    url = f"{path}/runs/{run['id']}"
                    async with self.http.get(url, params=params, headers=headers) as response:
                        run = await response.json()
                assert run["status"] == "completed", run
                finished += time.monotonic() < until_s

        await asyncio.gather(*(ask_on(number) for number in range(AT_ONCE)))
        self.report.sustained = finished / seconds

    async def rush(self, seconds: float) -> None:
        """Send ten times as many, on schedule, whatever is answered."""
        report, rate = self.report, TIMES * max(1.0, self.report.sustained)
        loop = asyncio.get_running_loop()
        idle: deque[Caller] = deque()
        callers = [Caller(report, idle) for _ in range(CALLERS)]
        host, port = self.url.removeprefix("http://").split(":")
        for caller in callers:
            await loop.create_connection(lambda caller=caller: caller, host, int(port))
        requests = [post(path.removeprefix(self.url), head) for path, head in self.places]
        watching = asyncio.create_task(self._watch())
        begun, asked = time.monotonic(), 0
        while (now := time.monotonic()) < begun + seconds:
            for number in range(asked, int((now - begun) * rate)):
                asked = number + 1
                if idle:
                    idle.popleft().ask(requests[number % len(requests)])
                else:
                    report.skipped += 1
            await asyncio.sleep(0.002)
        report.wanted = asked / seconds
        report.offered = (asked - report.skipped) / seconds
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await self._recover()

        async def all_answered() -> bool:
            return len(idle) == CALLERS

        await until(all_answered, within=60)
        for caller in callers:
            caller.close()

    async def _watch(self) -> None:
        while True:
            begun = time.monotonic()
            async with self.http.get(f"{self.url}/healthz") as response:
                assert response.status == 200
            self.report.live_s.append(time.monotonic() - begun)
            await asyncio.sleep(1)

    async def _recover(self) -> None:
        path, headers = self.places[0]
        begun = time.monotonic()

        async def is_well() -> bool:
            asked = time.monotonic()
            async with (
                self.http.get(f"{self.url}/readyz") as ready,
                self.http.get(f"{path}/messages", headers=headers) as read,
            ):
                return (ready.status, read.status) == (200, 200) and time.monotonic() < asked + 1

        await until(is_well, within=60)
        self.report.well_after_s = time.monotonic() - begun

    async def finish(self, *, within: float) -> None:
        """Wait until everything that was accepted has ended."""
        begun = time.monotonic()
        query = "SELECT status, count(*) FROM runs WHERE id = ANY($1) GROUP BY status"

        async def all_ended() -> bool:
            rows = await self.stack.fetch(query, self.report.accepted)
            self.report.statuses = Counter({row["status"]: row["count"] for row in rows})
            return set(self.report.statuses) <= TERMINAL

        await until(all_ended, within=within, every=0.5)
        self.report.finished_after_s = time.monotonic() - begun


async def overload(database_url: str, folder: Path, *, sustain_s: float, rush_s: float) -> Report:
    """Do all of it on a migrated database; the invariants are checked at the end."""
    async with (
        started(database_url, folder, **SETTINGS) as stack,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(60)
        ) as http,
    ):
        await hire(stack)
        crowd = Crowd(stack, http)
        await crowd.gather()
        await crowd.sustain(sustain_s)
        await crowd.rush(rush_s)
        await crowd.finish(within=300)
        await check(database_url)
        check_logs(stack.logs())
        return crowd.report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of the rush (default 60)")
    seconds = parser.parse_args().seconds
    with TemporaryDirectory(prefix="overload") as made:
        folder = Path(made)
        folder.chmod(0o755)
        with temporary_postgres(folder / "postgres") as url:
            migrate(url, default_model="test-model")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                report = runner.run(overload(url, folder / "logs", sustain_s=15, rush_s=seconds))
    print(report)  # noqa: T201 - its product


if __name__ == "__main__":
    main()
