"""Browser tabs: cheap readers on raw sockets, that leave at any byte and come back anywhere."""

import asyncio
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.stack import Block, blocks_of

RESET_AT_ONCE = struct.pack("ii", 1, 0)
FOR_EVER_S = 120.0
LOOK_S = 0.2
"""How often somebody who hears nothing looks whether it is over."""
Shown = tuple[str | None, str, str]


def shown(blocks: Sequence[Block]) -> list[Shown]:
    """Return what an EventSource tells its page: id, event, data."""
    return [(block.id, block.event, block.data) for block in blocks]


@dataclass(frozen=True)
class Leave:
    """When a tab leaves, whichever comes first, and how."""

    after_bytes: int = 1 << 40
    """Of what is on the wire, the head of the answer included."""
    after_s: float = FOR_EVER_S
    by_reset: bool = False

    @classmethod
    def at_random(cls, chance: random.Random) -> "Leave":
        """From the head of the answer to some hundred blocks later."""
        by_reset = chance.random() < 0.5
        return cls(int(10 ** chance.uniform(1.8, 4.2)), chance.uniform(0.01, 1.5), by_reset)


STAY = Leave()


@dataclass
class Visit:
    """One connection, as far as it was read."""

    wire: bytes = b""
    is_whole: bool = False
    """Whether the server ended the answer."""

    @property
    def status(self) -> int | None:
        """The answer's status, if its first line came through."""
        line, end, _ = self.wire.partition(b"\r\n")
        return int(line.split()[1]) if end else None

    @property
    def body(self) -> bytes:
        """What came of the body, its chunks undone."""
        body, rest = b"", self.wire.partition(b"\r\n\r\n")[2]
        while b"\r\n" in rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return body

    @property
    def blocks(self) -> list[Block]:
        """The whole blocks; a browser throws the beginning of another one away."""
        body = self.body
        return blocks_of(body[: body.rfind(b"\n\n") + 2].decode())


async def visit(
    url: str,
    path: str,
    headers: dict[str, str],
    leave: Leave = STAY,
    *,
    body: bytes | None = None,
    is_over: Callable[[Visit], bool] = lambda _: False,
) -> Visit:
    """Send a request, and read until it is over, or until the tab leaves."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + (body or b""))
    found = Visit()
    deadline = time.monotonic() + leave.after_s
    with suppress(ConnectionResetError):
        while len(found.wire) < leave.after_bytes and not is_over(found):
            left = deadline - time.monotonic()
            if left <= 0:
                assert leave is not STAY, f"nothing more came: {found.wire[-300:]!r}"
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_S)):
                    received = await reader.read(1 << 16)
                if not received:
                    found.is_whole = True
                    break
                found.wire += received
    # The rest did not get through.
    if len(found.wire) > leave.after_bytes:
        found.wire, found.is_whole = found.wire[: leave.after_bytes], False
    if leave.by_reset:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
        writer.transport.abort()
    writer.close()
    return found


@dataclass
class Tally:
    """How often what happened."""

    reconnects: int = 0
    tabs: int = 0
    blocks: int = 0
    uncut_streams: int = 0
    visits: Counter[str] = field(default_factory=Counter)


@dataclass
class Tab:
    """A reader of one stream that keeps leaving, and remembers what an EventSource would."""

    urls: Sequence[str]
    path: str
    token: str
    chance: random.Random
    tally: Tally
    blocks: list[Block] = field(default_factory=list)

    @property
    def cursor(self) -> str | None:
        """The last event id."""
        return next((block.id for block in reversed(self.blocks) if block.id), None)

    async def read(self, has_all: Callable[["Tab"], bool]) -> list[Block]:
        """Come back until the run's stream is over, or all is there."""
        self.tally.tabs += 1
        while not has_all(self):
            if await self.come_back():
                break
            if self.chance.random() < 0.5:
                await asyncio.sleep(self.chance.uniform(0, 0.1))
        return self.blocks

    async def come_back(self) -> bool:
        """Visit once; tell whether there is nothing more to come."""
        self.tally.reconnects += 1
        leave = Leave.at_random(self.chance)
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        path = self.path
        if self.cursor is not None and self.chance.random() < 0.8:
            headers["Last-Event-ID"] = self.cursor
        else:
            path += f"?after={self.cursor or 0}"
        found = await visit(self.chance.choice(self.urls), path, headers, leave)
        assert found.status in {None, 200, 204}, found.wire
        self.blocks += found.blocks
        self.tally.visits[_kind(found)] += 1
        return found.status == 204 or (bool(self.blocks) and self.blocks[-1].event == "done")


def _kind(found: Visit) -> str:
    if b"\r\n\r\n" not in found.wire:
        return "left before the head was there"
    if found.status == 204:
        return "told that there is nothing more"
    if found.is_whole:
        return "ended by the server"
    where = "between two blocks" if found.body.endswith(b"\n\n") else "inside a block or chunk"
    return f"left {where}"
