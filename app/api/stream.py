"""A stream as a response: bytes that the relay encoded, sent as they are.

A failure inside a streaming response is a 200 that ends; everything that can be refused is
refused before one of these is made.
"""

import asyncio
import re
import time
from contextlib import suppress
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.protocol import hang_up
from app.domain.errors import StorageUnavailableError
from app.services.streams import Stream, retry_block

MEDIA_TYPE: Final = "text/event-stream"
_REFUSED: Final = re.compile(r"q\s*=\s*0(\.0*)?")
HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    # Proxies that buffer would hold tokens back.
    (b"x-accel-buffering", b"no"),
]


class Translator(Protocol):
    """Tells a stream's events in another dialect."""

    is_over: bool
    """Nothing follows in the other dialect, whatever may here."""

    def feed(self, piece: bytes) -> bytes:
        """Translate whole blocks; empty where there is nothing to tell."""
        ...

    def cut_off(self) -> bytes:
        """Say that the stream ends here although more was to come; empty after its end."""
        ...


class EventStreamResponse(Response):
    """Sends a stream until it ends or its reader goes."""

    # FastAPI documents a route by the name and default of `status_code`.
    def __init__(
        self,
        stream: Stream,
        status_code: int = 200,
        location: str | None = None,
        translator: Translator | None = None,
    ) -> None:
        self._stream = stream
        self._translator = translator
        self.status_code = status_code
        self.background = None
        extra = [(b"location", location.encode())] if location else []
        self.raw_headers = [*HEADERS, *extra]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; a reader that is gone, or does not read, costs nothing but its place."""
        pump = asyncio.ensure_future(self._pump(send))
        watcher = asyncio.ensure_future(_disconnected(receive))

        def cut() -> None:
            hang_up(scope)
            pump.cancel()

        self._stream.on_cut = cut
        try:
            await asyncio.wait({pump, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stream.close()
            for task in (pump, watcher):
                task.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await task

    async def _pump(self, send: Send) -> None:
        stream = self._stream
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        # When the database goes away the stream ends; its reader comes back with a cursor.
        with suppress(StorageUnavailableError):
            async for piece in stream.chunks():
                sent = piece if self._translator is None else self._translator.feed(piece)
                stream.last_sent = time.monotonic()
                if sent:
                    stream.blocked_since = stream.last_sent
                    await send({"type": "http.response.body", "body": sent, "more_body": True})
                    stream.blocked_since = None
                if self._translator is not None and self._translator.is_over:
                    break
        rest = b"" if self._translator is None else self._translator.cut_off()
        # The server takes any piece at once, and lets the next one wait for the reader: also this.
        stream.blocked_since = time.monotonic()
        await send({"type": "http.response.body", "body": rest})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def is_accepted(accept: str) -> bool:
    """Tell whether an `Accept` header names a stream, and does not refuse it by `q=0`."""
    for item in accept.lower().split(","):
        media_type, *parameters = [piece.strip() for piece in item.split(";")]
        if media_type == MEDIA_TYPE:
            return not any(_REFUSED.fullmatch(parameter) for parameter in parameters)
    return False


def come_back() -> Response:
    """Answer that there is nothing for now: an EventSource gives up on any other status."""
    return Response(retry_block(), 200, {"Cache-Control": "no-store"}, MEDIA_TYPE)
