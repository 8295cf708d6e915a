"""The load client's HTTP: one connection that stamps what arrives and understands it later.

While a row is measured a stream only records (time, bytes); parsing waits until the window is
closed, so that the client's own work does not stand between the contender and the clock.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Self, cast

import httptools

_MARK = re.compile(rb"@(\d+\.\d{6})")
_TOKEN = re.compile(rb" (\d+):(\d+\.\d{6})")


@dataclass(slots=True)
class Stream:
    """What came back on one streamed request."""

    sent: float
    status: int = 0
    wire_bytes: int = 0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reading:
    """One run as its reader saw it: seconds later than the upstream sent it."""

    first: float
    tokens: list[tuple[float, float]]
    """(when the upstream sent it, how much later it arrived), the first token left out."""
    wire_bytes: int
    blocks: int


class Connection(asyncio.Protocol):
    """One HTTP/1.1 keep-alive connection, one request at a time."""

    _stream: Stream
    _done: asyncio.Future[None]
    _begun: asyncio.Future[None]

    def __init__(self) -> None:
        self._now = 0.0

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a local port."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, "127.0.0.1", port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever still waits."""
        for future in (getattr(self, "_done", None), getattr(self, "_begun", None)):
            if future is not None and not future.done():
                future.set_exception(exc or ConnectionError("closed before the answer ended"))
                future.exception()  # one of the two may never be awaited

    def data_received(self, data: bytes) -> None:
        """Stamp first, parse second."""
        self._now = time.monotonic()
        self._stream.wire_bytes += len(data)
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        """The head is here (httptools)."""
        self._stream.status = self._parser.get_status_code()
        self._begun.set_result(None)

    def on_body(self, body: bytes) -> None:
        """A piece of the body, unchunked (httptools)."""
        self._stream.pieces.append((self._now, body))

    def on_message_complete(self) -> None:
        """The end (httptools)."""
        if not self._done.done():
            self._done.set_result(None)

    def send(self, method: str, path: str, body: object = None, **headers: str) -> Stream:
        """Send a request; what comes back gathers in the stream."""
        loop = asyncio.get_running_loop()
        self._done, self._begun = loop.create_future(), loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        payload = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if payload:
            lines += ["content-type: application/json", f"content-length: {len(payload)}"]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        self._stream = Stream(sent=time.monotonic())
        self._transport.write(head + payload)
        return self._stream

    async def begun(self) -> None:
        """Wait for the answer's head."""
        await self._begun

    async def done(self) -> None:
        """Wait for the answer's end."""
        await self._done

    async def json(
        self,
        method: str,
        path: str,
        body: object = None,
        **headers: str,
    ) -> dict[str, Any]:
        """One plain JSON request and its answer, refused loudly unless 2xx."""
        stream = self.send(method, path, body, **headers)
        await self.done()
        content = b"".join(piece for _, piece in stream.pieces)
        if stream.status >= 300:
            raise RuntimeError(f"{method} {path}: {stream.status} {content[:300]!r}")
        answer: dict[str, Any] = json.loads(content)
        return answer

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


def read(stream: Stream, *, tokens: int) -> Reading:
    """Understand a finished stream.

    A token has arrived when the SSE block that covers it has: at the piece with its blank line.

    Raises:
        ValueError: It is not exactly the tokens 0..n-1 in their order.
    """
    blocks, arrivals = 0, []
    received, rest = 0.0, b""
    for at, piece in stream.pieces:
        rest += piece
        *complete, rest = rest.split(b"\n\n")
        for block in complete:
            blocks += 1
            if b"delta" not in block[:60]:
                continue
            if mark := _MARK.search(block):
                received = float(mark[1])
            arrivals += [(int(i), float(sent), at) for i, sent in _TOKEN.findall(block)]
    if stream.status != 200 or [index for index, _, _ in arrivals] != list(range(tokens)):
        body = b"".join(piece for _, piece in stream.pieces)
        raise ValueError(
            f"status {stream.status}, {len(arrivals)} of {tokens} tokens: {body[-400:]!r}"
        )
    _, first_sent, first_at = arrivals[0]
    return Reading(
        first=(first_at - stream.sent) - (first_sent - received),
        tokens=[(sent, at - sent) for _, sent, at in arrivals[1:]],
        wire_bytes=stream.wire_bytes,
        blocks=blocks,
    )
