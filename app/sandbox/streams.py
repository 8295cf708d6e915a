"""Server-sent events over plain ASGI, aware of a reader that goes away."""

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.sandbox.state import State, StoredResponse


class EventStream(Response):
    """Sends events, one per ASGI message, until they end or the reader is gone."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        state: State,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            media_type="text/event-stream; charset=utf-8",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._events = events
        self._state = state
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream; on a closed socket stop at once and tell `on_close`."""
        _ = scope
        self._state.open_streams += 1
        sender = asyncio.create_task(self._send(send))
        watcher = asyncio.create_task(_watch(receive))
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._state.open_streams -= 1
            watcher.cancel()
            sender.cancel()
            await asyncio.gather(sender, watcher, return_exceptions=True)
            self._on_close()
        if not sender.cancelled():
            sender.result()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _watch(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def follow(response: StoredResponse, after: int) -> AsyncIterator[bytes]:
    """Yield a response's events beyond a sequence number, until it is done."""
    at = after + 1
    while True:
        changed = response.changed
        while at < len(response.events):
            yield response.events[at]
            at += 1
        if response.done and at >= len(response.events):
            return
        await changed.wait()
