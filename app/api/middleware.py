"""What every request passes, as plain ASGI: a request id, safe headers, a bounded body.

Starlette's BaseHTTPMiddleware is not used anywhere: it trebles the cost of each streamed event.
"""

import asyncio
import logging
import re
import secrets
from contextlib import suppress
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


def request_id_of(scope: Any) -> str:
    """Return the id of the request, which the caller may have chosen."""
    found: str = scope.get("request_id", "")
    return found


class BodyTooLargeError(HTTPException):
    """More was sent than may be: as FastAPI reads the body, it lets only these through."""

    def __init__(self) -> None:
        super().__init__(413, headers={"Connection": "close"})


class EdgeMiddleware:
    """Request id in and out, headers that are always right, and a limit on the body."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, on_fault: ASGIApp) -> None:
        self._app = app
        self._on_fault = on_fault
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = scope["request_id"] = _request_id(headers)
        announced = headers.get("content-length", "0")
        is_too_large = announced.isdecimal() and int(announced) > self._max_body_bytes
        is_started = False
        taken = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                _add_headers(message, request_id)
            elif is_too_large and not message.get("more_body"):
                await send({**message, "more_body": True})
                await _linger(receive)
                message = {**message, "body": b""}
            await send(message)

        async def receive_bounded() -> Message:
            nonlocal is_too_large, taken
            message: Message = {"type": "http.disconnect"}
            if not is_too_large:
                message = await receive()
                taken += len(message.get("body", b""))
                is_too_large = taken > self._max_body_bytes
            if is_too_large and not is_started:
                raise BodyTooLargeError
            return message

        try:
            await self._app(scope, receive_bounded, send_with_headers)
        except Exception:
            # Starlette's own last resort stands outside of all middleware: no header is added.
            if is_started:
                raise
            log.exception("a request failed")
            await self._on_fault(scope, receive, send_with_headers)


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
