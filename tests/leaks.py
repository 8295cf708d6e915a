"""Streams opened and closed by the thousand: what an API process holds must not grow.

`python -m tests.leaks --streams 1000 --cycles 6` measures it on a database of its own.
"""

import argparse
import asyncio
import json
import resource
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil

from app.adapters.postgres.embedded import temporary_postgres
from app.adapters.postgres.migrate import migrate
from bench.wire import Connection
from tests.observed import FILE
from tests.stack import Client, Process, Stack, running, until
from tests.tabs import RESET_AT_ONCE

STREAMS_A_USER = 50
STREAMS_A_SESSION = 5
ONE_IN = 5
"""Of so many streams one is a question's, and ends by itself."""
AT_ONCE = 25
SETTLE_S = 2.0


@dataclass(frozen=True)
class Held:
    """What the API process holds while nobody reads."""

    descriptors: int
    connections: int
    """To the database, as the database sees them."""
    tasks: int
    channels: int
    readers: int
    streams: int
    """Objects; whatever looked at a stream last may hold it until it looks again."""


@dataclass(frozen=True)
class Cycle:
    """Resident memory, in bytes."""

    open: int
    """While all streams were open."""
    closed: int


@dataclass(frozen=True)
class Findings:
    """What the cycles left behind."""

    base: Held
    """After the first cycle: pools are full then."""
    end: Held
    cycles: Sequence[Cycle]

    def growth(self) -> tuple[float, float]:
        """Return the last cycle's memory as a multiple of the second's, open and closed."""
        second, last = self.cycles[1], self.cycles[-1]
        return last.open / second.open, last.closed / second.closed

    def check(self) -> None:
        """Fail unless all is back at the base line."""
        base, end = self.base, self.end
        assert end.descriptors <= base.descriptors, self
        assert 0 < end.connections <= base.connections, self
        assert end.tasks <= base.tasks, self
        assert end.channels == end.readers == 0, self
        assert end.streams <= 2, self
        assert max(self.growth()) <= 1.05, self


class Observed:
    """An API process that tells what it holds."""

    def __init__(self, stack: Stack, process: Process, role: str) -> None:
        self.stack, self.process, self._role = stack, process, role
        self._inside = psutil.Process(process.popen.pid)
        self._file = Path(process.env[FILE])

    @classmethod
    async def start(cls, stack: Stack) -> "Observed":
        """Start one, under a name of its own in the database."""
        role, word = f"observed_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        owner = await stack.fetchval("SELECT current_user")
        await stack.fetch(
            f"CREATE ROLE {role} LOGIN PASSWORD '{word}' IN ROLE {owner}"  # no parameters here
        )
        place = urlsplit(stack.database_url)
        address = f"{role}:{word}@{place.netloc.rpartition('@')[2]}"
        process = await stack.start_api(
            module="tests.observed",
            DATABASE_URL=urlunsplit(place._replace(netloc=address)),
            MAX_STREAMS_PER_USER=str(2 * STREAMS_A_USER),
            MAX_QUEUED_RUNS_PER_USER="1000",
            **{FILE: str(stack.folder / "observed.json")},
        )
        return cls(stack, process, role)

    async def stop(self) -> None:
        """Stop it, and take its name back."""
        self.process.signal(signal.SIGTERM)
        assert await self.process.exit(10) == 0
        await self.stack.fetch(f"DROP ROLE {self._role}")

    @property
    def resident(self) -> int:
        """Bytes of resident memory."""
        return int(self._inside.memory_info().rss)

    def descriptors(self) -> int:
        """Count open files and sockets."""
        return int(self._inside.num_fds())

    async def held(self) -> Held:
        """Ask it, and ask the kernel and the database."""
        self._file.unlink(missing_ok=True)
        self.process.signal(signal.SIGUSR1)

        async def has_told() -> bool:
            return self._file.exists()

        await until(has_told)
        told = json.loads(self._file.read_text())
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1"
        connections = await self.stack.fetchval(query, self._role)
        return Held(self.descriptors(), connections, **told)


class Audience:
    """Users who open new sessions in every cycle."""

    def __init__(self, stack: Stack, streams: int) -> None:
        self._url = stack.api_urls[-1]
        self._users = [f"reader-{n}" for n in range(max(1, streams // STREAMS_A_USER))]
        self._streams = streams
        self._sessions: list[tuple[Client, str]] = []

    async def gather(self) -> None:
        """Open the sessions."""
        clients = [Client(self._url, user) for user in self._users]
        chosen = [clients[n % len(clients)] for n in range(self._streams // STREAMS_A_SESSION)]
        self._sessions = [(client, await client.open_session()) for client in chosen]
        for client in clients:
            # Its connection would be counted.
            await client.close()

    async def open(self, number: int) -> Connection:
        """Open a stream and read its head."""
        client, session = self._sessions[number // STREAMS_A_SESSION]
        headers = {"authorization": f"Bearer {client.token}", "accept": "text/event-stream"}
        connection = await Connection.open(urlsplit(self._url).port or 0)
        path = f"/v1/sessions/{session}"
        if number % ONE_IN:
            stream = connection.send("GET", f"{path}/events?after=0", **headers)
        else:
            body = {"content": "What is 1 + 1?", "on_active_run": "enqueue"}
            stream = connection.send("POST", f"{path}/messages", body, **headers)
        await asyncio.wait_for(connection.begun(), 60)
        assert stream.status == 200, stream.pieces
        return connection


async def _cycle(observed: Observed, audience: Audience, streams: int, idle: int) -> Cycle:
    await audience.gather()
    connections: list[Connection] = []
    for start in range(0, streams, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, streams))
        connections += await asyncio.gather(*(audience.open(number) for number in numbers))
    for asked in connections[::ONE_IN]:
        await asyncio.wait_for(asked.done(), 120)
    opened = observed.resident
    for number, connection in enumerate(connections):
        if number % 2:
            transport = connection._transport  # noqa: SLF001
            sock = transport.get_extra_info("socket")
            # The server may have closed it, if it was done for some seconds.
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        connection.close()

    async def are_gone() -> bool:
        return observed.descriptors() <= idle

    with suppress(AssertionError):
        # What stays open is found out by the comparison.
        await until(are_gone, within=30)
    await asyncio.sleep(SETTLE_S)
    return Cycle(opened, observed.resident)


async def measure(stack: Stack, *, streams: int, cycles: int) -> Findings:
    """Open and close so many streams so often at a fresh API process."""
    observed = await Observed.start(stack)
    audience = Audience(stack, streams)
    found = [await _cycle(observed, audience, streams, observed.descriptors() + 20)]
    base = await observed.held()
    found += [
        await _cycle(observed, audience, streams, base.descriptors) for _ in range(cycles - 1)
    ]
    end = await observed.held()
    await observed.stop()
    return Findings(base, end, found)


async def _main(streams: int, cycles: int) -> Findings:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="leaks-") as name:
        folder = Path(name)
        with temporary_postgres(folder / "postgres") as url:
            await asyncio.to_thread(migrate, url, default_model="test-model")
            async with running(url, folder / "stack", apis=0) as stack:
                return await measure(stack, streams=streams, cycles=cycles)


def main() -> int:
    """Measure, print, and fail if anything grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--cycles", type=int, default=6)
    arguments = parser.parse_args()
    found = asyncio.run(_main(arguments.streams, arguments.cycles))
    told: dict[str, Any] = asdict(found) | {"growth, open and closed": found.growth()}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    found.check()
    return 0


if __name__ == "__main__":
    sys.exit(main())
