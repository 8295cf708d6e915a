"""HTTP/1.1 with a way to hang up, which ASGI has no word for, and with limits to its patience.

A reader that does not read must lose its connection: closing it in order waits until the reader
has read what is buffered, so that whoever never reads keeps sockets and buffers for good.
"""

import asyncio
import socket
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_ABORT: Final = "tutor_relay.abort"
GONE_MS: Final = 120_000
"""What a reader may leave unacknowledged. The kernel's own quarter of an hour is longer than a
stream's life: a phone that changes networks leaves half-open streams behind, and its user would
soon be refused another one with 429, after which a native EventSource gives up for good.
Shorter, and a stream would not outlast a tunnel."""
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


class AbortableProtocol(HttpToolsProtocol):
    """uvicorn's protocol; each request knows how to drop its connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the kernel give up readers that vanished without a word (Linux)."""
        super().connection_made(transport)
        if _USER_TIMEOUT is not None:
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, GONE_MS)

    def on_message_begin(self) -> None:
        """Offer it to the request that begins."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {_ABORT: self.transport.abort}


def hang_up(scope: Scope) -> None:
    """Drop the connection and what is buffered for it, where the server can."""
    abort = scope.get("extensions", {}).get(_ABORT)
    if abort is not None:
        abort()
