"""What every request passes, as plain ASGI: a request id, safe headers, a bounded body.

Starlette's BaseHTTPMiddleware is not used anywhere: it trebles the cost of each streamed event.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_REQUEST_ID: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LINGER_S: Final = 5.0
BUSY_RETRY_S: Final = "2"


def request_id_of(scope: Any) -> str:
    """Return the id of the request, which the caller may have chosen."""
    found: str = scope.get("request_id", "")
    return found


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a body may be: bytes, and seconds to come in."""

    size: int
    seconds: float


class RefusedError(HTTPException):
    """The body is not taken: as FastAPI reads it, it lets only these through."""


class EdgeMiddleware:
    """Request id in and out, headers that are always right, and limits on bodies."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        usual: "Allowance",
        max_bodies: int,
        uploads: Mapping[str, "Allowance"],
        on_fault: ASGIApp,
    ) -> None:
        self._app = app
        self._on_fault = on_fault
        self._uploads = uploads
        """By path: files are larger than any other body, and take longer to come."""
        self._usual = usual
        self.max_bodies = max_bodies
        self.bodies = 0
        """Requests whose body was taken, and whose answer has not begun."""

    def allowance(self, scope: Scope) -> "Allowance":
        """Return what a request's body may be."""
        if scope["method"] != "POST":
            return self._usual
        return self._uploads.get(scope["path"], self._usual)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            # Starlette's own last resort stands outside of all middleware: no header is added.
            if exchange.is_started:
                raise
            log.exception("a request failed")
            await self._on_fault(scope, receive, exchange.send)
        finally:
            exchange.leave()


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_allowance", "_deadline", "_edge", "_id", "_is_counted", "_is_read", "_is_too_large",
        "_receive", "_send", "_taken", "is_started",
    )  # fmt: skip

    def __init__(self, edge: EdgeMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        self._edge = edge
        self._receive = receive
        self._send = send
        self._id = scope["request_id"] = _request_id(headers)
        self._allowance = edge.allowance(scope)
        most = self._allowance.size
        self._is_too_large = announced.isdecimal() and int(announced) > most
        self._is_read = False
        self._is_counted = False
        self._taken = 0
        self._deadline: float | None = None
        self.is_started = False

    async def receive(self) -> Message:
        """Return the next piece of the body, then whatever the server has to say."""
        if self.is_started or self._is_read:
            return await self._receive()
        if self._is_too_large:
            raise RefusedError(413, headers={"Connection": "close"})
        message = await self._piece()
        self._taken += len(message.get("body", b""))
        self._is_too_large = self._taken > self._allowance.size
        if self._is_too_large:
            raise RefusedError(413, headers={"Connection": "close"})
        self._is_read = not message.get("more_body")
        if self._is_read and self._taken:
            self._enter()
        return message

    async def _piece(self) -> Message:
        loop = asyncio.get_running_loop()
        self._deadline = self._deadline or loop.time() + self._allowance.seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            # In all, not between two pieces: a byte now and then would hold a place for good.
            raise RefusedError(408, headers={"Connection": "close"}) from None

    def _enter(self) -> None:
        """Take a place: what can't be done soon is refused before it costs anything."""
        if self._edge.bodies >= self._edge.max_bodies:
            raise RefusedError(503, headers={"Retry-After": BUSY_RETRY_S})
        self._edge.bodies += 1
        self._is_counted = True

    def leave(self) -> None:
        """Give the place up, if one was taken."""
        self._edge.bodies -= self._is_counted
        self._is_counted = False

    async def send(self, message: Message) -> None:
        """Pass the answer on, with our headers."""
        if message["type"] == "http.response.start":
            self.is_started = True
            self.leave()
            _add_headers(message, self._id)
        elif self._is_too_large and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await _linger(self._receive)
            message = {**message, "body": b""}
        await self._send(message)


def _request_id(headers: Headers) -> str:
    wanted = headers.get("x-request-id", "")
    return wanted if _REQUEST_ID.fullmatch(wanted) else f"req_{secrets.token_hex(8)}"


def _add_headers(message: Message, request_id: str) -> None:
    present = MutableHeaders(scope=message)
    present["X-Request-ID"] = request_id
    for name, value in _HEADERS.items():
        present.setdefault(name, value)


async def _linger(receive: Receive) -> None:
    """Let a client that is still sending read its refusal: closing at once would reset it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body"):
                pass
