"""Readers whose network goes away without a word: what they held is given back."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from app.api import protocol
from app.services import streams
from tests.integration.test_streams import events_of, in_process, streams_left
from tests.stack import Client, until

PHONE = """
import socket, sys, time
host, port, path, token = sys.argv[1:]
phone = socket.create_connection((host, int(port)), 10)
head = f"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\nAuthorization: Bearer {token}\\r\\n\\r\\n"
phone.sendall(head.encode())
print(phone.recv(12).decode(), flush=True)
time.sleep(600)
"""


async def ip(*words: str) -> bool:
    """Run the program; tell whether it did what was asked."""
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec("ip", *words, stdout=quiet, stderr=quiet)
    return await process.wait() == 0


@dataclass
class Elsewhere:
    """A network of its own that reaches us over one cable."""

    name: str
    here: str
    plug: str

    async def run(self, *command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", self.name, *command), stdout=asyncio.subprocess.PIPE
        )

    async def unplug(self) -> None:
        assert await ip("-n", self.name, "link", "set", self.plug, "down")


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("a network of its own needs iproute2 and root")
    number = os.getpid() % 250
    name, ours, theirs = f"phone{number}", f"here{number}", f"there{number}"
    here, there = f"10.213.{number}.1", f"10.213.{number}.2"
    try:
        steps = (
            ("netns", "add", name),
            ("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name),
            ("addr", "add", f"{here}/30", "dev", ours),
            ("link", "set", ours, "up"),
            ("-n", name, "addr", "add", f"{there}/30", "dev", theirs),
            ("-n", name, "link", "set", theirs, "up"),
        )
        for step in steps:
            if not await ip(*step):
                pytest.skip(f"ip {' '.join(step[:3])} is not allowed here")
        yield Elsewhere(name, here, theirs)
    finally:
        await ip("netns", "del", name)


async def test_a_phone_that_loses_its_network_again_and_again_is_not_locked_out(
    database_url: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "GONE_MS", 2000)
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 1)
    async with in_process(database_url, listen="0.0.0.0") as url, AsyncExitStack() as ends:  # noqa: S104
        port = str(urlsplit(url).port)
        client = Client(f"http://127.0.0.1:{port}", "alice")
        ends.push_async_callback(client.close)
        session = await client.open_session()
        for _ in range(5):
            phone = await elsewhere.run(
                *(sys.executable, "-c", PHONE, elsewhere.here, port),
                *(events_of(session), client.token),
            )
            ends.callback(_end, phone)
            assert phone.stdout is not None
            assert (await phone.stdout.readline()).strip() == b"HTTP/1.1 200"
        assert await streams_left(client) == 15
        await elsewhere.unplug()

        async def are_gone() -> bool:
            return await streams_left(client) == 20

        # The kernel alone would take a quarter of an hour.
        await until(are_gone, within=40)


def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
