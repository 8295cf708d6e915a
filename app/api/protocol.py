"""HTTP/1.1 with a way to hang up, which ASGI has no word for, and with limits to its patience.

A reader that does not read must lose its connection: closing it in order waits until the reader
has read what is buffered, so that whoever never reads keeps sockets and buffers for good.
"""

import asyncio
import socket
from http import HTTPStatus
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.domain.events import dump

_ABORT: Final = "tutor_relay.abort"
GONE_MS: Final = 120_000
"""What a reader may leave unacknowledged. The kernel's own quarter of an hour is longer than a
stream's life: a phone that changes networks leaves half-open streams behind, and its user would
soon be refused another one with 429, after which a native EventSource gives up for good.
Shorter, and a stream would not outlast a tunnel."""
MAX_HEAD_BYTES: Final = 65_536
"""Of a request's headers: all are kept before anybody is asked for a token."""


def _refusal(status: HTTPStatus, code: str, detail: str) -> bytes:
    """Write the problem of what never became a request, and has no id."""
    head = f"HTTP/1.1 {status.value} {status.phrase}"
    problem = {"type": "about:blank", "title": status.phrase, "status": status.value}
    body = dump({**problem, "detail": detail, "code": code})
    return (
        f"{head}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
        f"connection: close\r\n\r\n{body}"
    ).encode()


_NOT_HTTP: Final = _refusal(
    HTTPStatus.BAD_REQUEST, "invalid_http", "This is no valid HTTP request."
)
_TOO_LARGE: Final = _refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", "The headers are too long."
)
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


class AbortableProtocol(HttpToolsProtocol):
    """uvicorn's protocol; each request knows how to drop its connection."""

    _is_getting_on = False
    _barren_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let the kernel give up readers that vanished without a word (Linux)."""
        super().connection_made(transport)
        if _USER_TIMEOUT is not None:
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, GONE_MS)

    def data_received(self, data: bytes) -> None:
        """Refuse headers, or trailers, that do not end."""
        self._is_getting_on = False
        super().data_received(data)
        self._barren_bytes = 0 if self._is_getting_on else self._barren_bytes + len(data)
        if self._barren_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the server's own words
        """Refuse what is no HTTP, in the form of every other error."""
        self.transport.write(_NOT_HTTP)
        self.transport.close()

    def on_message_begin(self) -> None:
        """Offer it to the request that begins."""
        super().on_message_begin()
        self._is_getting_on = True
        cast("dict[str, Any]", self.scope)["extensions"] = {_ABORT: self.transport.abort}

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._is_getting_on = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a piece of a body on; how much of it may come is the application's to say."""
        self._is_getting_on = True
        super().on_body(body)


def hang_up(scope: Scope) -> None:
    """Drop the connection and what is buffered for it, where the server can."""
    abort = scope.get("extensions", {}).get(_ABORT)
    if abort is not None:
        abort()
