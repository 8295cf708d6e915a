"""Faults inside a stream: a wrapper around ASGI's `send` that spoils what passes."""

import asyncio
import re
from typing import Final

from starlette.types import Message, Scope, Send

from app.sandbox.faults import Action, At
from app.sandbox.jsonio import dump
from app.sandbox.protocol import hang_up

_FLUSH_S: Final = 0.03
"""Lets the bytes before a cut reach the reader, so that the cut is where it was asked."""
_CHUNK: Final = 64 * 1024
_RESIZING: Final = frozenset({
    "eof", "drip", "duplicate", "reorder", "drop", "no_sequence", "garbage_json", "bad_utf8",
    "unknown_event", "oversize",
})  # fmt: skip
_SEQUENCE: Final = re.compile(rb'("sequence_number":)(\d+),?')
_EVENT: Final = re.compile(rb"event: ([^\n]+)\n")


class ReaderGoneError(Exception):
    """The connection was cut on purpose; the endpoint must stop."""


class Damage:
    """Passes a response on and does one action to it."""

    def __init__(self, action: Action, scope: Scope, send: Send) -> None:
        self._action = action
        self._scope = scope
        self._send = send
        self._index = -1
        self._seen = 0
        self._reached = False
        self._held: Message | None = None
        self.cut = False
        self._is_stream = False

    async def send(self, message: Message) -> None:
        """Stand in for ASGI's `send`.

        Raises:
            ReaderGoneError: The connection was cut, and the work is not to be finished.
        """
        if self.cut:
            return
        if message["type"] == "http.response.start":
            types = [value for name, value in message["headers"] if name == b"content-type"]
            self._is_stream = any(value.startswith(b"text/event-stream") for value in types)
        body = message.get("body", b"")
        if body and not self._is_stream and self._action.type in _RESIZING:
            # A refusal has a length that it was announced with.
            await self._send(message)
            return
        if message["type"] != "http.response.body" or not body:
            if self._held is not None:
                await self._send(self._held)
                self._held = None
            await self._send(message)
            return
        self._index += 1
        here = not self._reached and self._matches(body)
        self._reached = self._reached or here
        await self._apply(message, body, here=here)

    def _matches(self, body: bytes) -> bool:
        at = self._action.at or At()
        if at.event is None:
            return self._index == at.index
        name = _EVENT.match(body)
        if name is None or name.group(1).decode() != at.event:
            return False
        self._seen += 1
        return self._seen == at.nth

    async def _apply(self, message: Message, body: bytes, *, here: bool) -> None:  # noqa: C901, PLR0912
        action = self._action
        number = _number(body)
        match action.type:
            case "reset" | "eof" if here:
                await self._cut(body)
            case "stall" if here:
                await asyncio.sleep(action.seconds)
                await self._send(message)
            case "drip" if self._reached:
                await self._drip(body)
            case "duplicate" if here or (action.at is None):
                for _ in range(action.count):
                    await self._send(message)
            case "reorder" if here:
                self._held = message
            case "reorder" if self._held is not None:
                held, self._held = self._held, None
                await self._send(message)
                await self._send(held)
            case "drop" if here:
                return
            case "no_sequence" if self._reached:
                await self._chunk(_SEQUENCE.sub(b"", body).replace(b",}", b"}"))
            case "garbage_json" | "bad_utf8" | "unknown_event" if here:
                await self._chunk(_spoiled(action, number))
                if not action.replace:
                    await self._send(message)
            case "oversize" if here:
                await self._oversize(number)
                if not action.replace:
                    await self._send(message)
            case _:
                await self._send(message)

    async def _chunk(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _cut(self, body: bytes) -> None:
        if self._action.position != "before":
            part = body if self._action.position == "after" else body[: len(body) // 2]
            await self._chunk(part)
        if self._action.type == "eof":
            # a complete chunked body: the reader sees a proper end, only too early
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await asyncio.sleep(_FLUSH_S)
            hang_up(self._scope)
        self.cut = True
        if not self._action.finish:
            raise ReaderGoneError

    async def _drip(self, body: bytes) -> None:
        size = self._action.chunk_bytes
        for start in range(0, len(body), size):
            await self._chunk(body[start : start + size])
            await asyncio.sleep(self._action.interval_s)

    async def _oversize(self, number: int) -> None:
        await self._chunk(
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
            b'"item_id":"msg_big","output_index":0,"content_index":0,"logprobs":[],'
            b'"sequence_number":%d,"delta":"' % number
        )
        left = int(self._action.megabytes * 1024 * 1024)
        while left > 0:
            await self._chunk(b"x" * min(left, _CHUNK))
            left -= _CHUNK
            # What is sent to nobody does not wait: that the reader left would be noticed too late.
            await asyncio.sleep(0)
        await self._chunk(b'"}\n\n')


def _number(body: bytes) -> int:
    found = _SEQUENCE.search(body)
    return int(found.group(2)) if found is not None else 0


def _spoiled(action: Action, number: int) -> bytes:
    if action.type == "garbage_json":
        return b'event: response.output_text.delta\ndata: {"type": "response.output_te\n\n'
    if action.type == "bad_utf8":
        return (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
            b'"item_id":"msg_bad","output_index":0,"content_index":0,"logprobs":[],'
            b'"sequence_number":%d,"delta":"\xff\xfe\xc3("}\n\n' % number
        )
    name = action.event
    data = dump({"type": name, "sequence_number": number, "delta": "*"})
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
