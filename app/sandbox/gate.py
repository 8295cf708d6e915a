"""What every request passes first: counting, the key, the fault rules."""

import asyncio
import json
import re
from contextlib import suppress
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.sandbox.context import Context
from app.sandbox.damage import Damage, ReaderGoneError
from app.sandbox.errors import ApiError, envelope
from app.sandbox.faults import ENDING_KEY, ENDINGS, Action
from app.sandbox.generation import Ending
from app.sandbox.jsonio import json_response
from app.sandbox.protocol import hang_up

_ID: Final = re.compile(r"/(?:(?:conv|resp|msg|fc|fco|rs|item)_|file-)[^/]+")
_RESPONSE_CODES: Final = frozenset({"server_error", "rate_limit_exceeded", "invalid_prompt"})


class Gate:
    """ASGI middleware in front of the endpoints."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, turn it away, or let it in and spoil the answer."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1"):
            await self._app(scope, receive, send)
            return
        state = self._context.state
        state.calls[f"{scope['method']} {_ID.sub('/{id}', scope['path'])}"] += 1
        if not _has_key(scope):
            error = ApiError(
                401,
                "You didn't provide an API key. You need to provide your API key in an "
                "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
            await json_response(error.body(), 401)(scope, receive, send)
            return
        is_question = (scope["method"], scope["path"]) == ("POST", "/v1/responses")
        if not self._context.faults.rules and not is_question:
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        replay, parsed = _Replay(body, receive), _parsed(body)
        if is_question:
            send = self._context.ledger.add(parsed).watch(send)
        action = self._context.faults.take(scope["method"], scope["path"], parsed)
        if action is None:
            await self._app(scope, replay.receive, send)
            return
        state.faults_fired += 1
        await self._spoil(action, scope, replay, send)

    async def _spoil(self, action: Action, scope: Scope, replay: "_Replay", send: Send) -> None:
        if action.type in ENDINGS:
            scope[ENDING_KEY] = _ending(action)
            await self._app(scope, replay.receive, send)
            return
        if action.type == "delay" or (action.type == "stall" and action.at is None):
            await replay.wait(action.seconds)
            if replay.gone:
                return
            await self._app(scope, replay.receive, send)
            return
        at_once = action.type in {"status", "html", "json_body"} or (
            action.type == "reset" and action.at is None
        )
        if at_once:
            await self._instead(action, scope, replay, send)
            return
        damage = Damage(action, scope, send)
        receive = replay.deaf if action.finish else replay.receive
        with suppress(ReaderGoneError):
            await self._app(scope, receive, damage.send)
        if damage.cut:
            await replay.ended()

    async def _instead(self, action: Action, scope: Scope, replay: "_Replay", send: Send) -> None:
        """Answer otherwise than the endpoint would, which may have done its work."""
        if action.after_work:
            await self._app(scope, replay.deaf, _swallow)
        if action.type == "reset":
            hang_up(scope)
            await replay.ended()
            return
        await _replacement(action)(scope, replay.receive, send)


class _Replay:
    """A request body that was read already, and then the connection as it goes on."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self.gone = False

    async def receive(self) -> Message:
        """Stand in for ASGI's `receive`."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self.gone:
            return {"type": "http.disconnect"}
        return await self._receive()

    async def deaf(self) -> Message:
        """Stand in for `receive` of an endpoint that must not notice a closed socket."""
        if self._body is not None:
            return await self.receive()
        forever: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await forever

    async def ended(self) -> None:
        """Wait until the server knows that it is cut: it logs whoever returns before."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def wait(self, seconds: float) -> None:
        """Wait, but not for a client that went away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                self.gone = True


async def _swallow(message: Message) -> None:
    """Stand in for `send` of an endpoint whose answer gets lost."""


async def _read_body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(chunks)
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def _parsed(body: bytes) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value


def _has_key(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = bytes(value).partition(b" ")
            return scheme.lower() == b"bearer" and bool(key.strip())
    return False


def _ending(action: Action) -> Ending:
    kinds = {"fail": "fail", "error": "error", "incomplete": "incomplete", "stuck": "stuck"}
    code = action.code or "server_error"
    return Ending(
        kind=kinds[action.type],  # type: ignore[arg-type]
        after_deltas=action.after_deltas,
        # `response.failed` knows a closed list of codes; the `error` event takes any
        code=code if code in _RESPONSE_CODES or action.type == "error" else "server_error",
        message=action.message,
    )


def _replacement(action: Action) -> Response:
    if action.type == "html":
        page = "<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"
        return Response(page, media_type="text/html")
    if action.type == "json_body":
        return json_response({"ok": True} if action.body is None else action.body)
    body = action.body
    if body is None:
        body = envelope(action.message, action.error_type, None, action.code)
    response = json_response(body, action.status)
    if action.retry_after is not None:
        response.headers["retry-after"] = action.retry_after
    response.headers.update(action.headers)
    return response
