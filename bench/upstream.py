"""A lean upstream: Conversations and streamed Responses, paced to the microsecond it can hold.

Not the sandbox: it solves nothing and checks nothing, so that 100 streams of 20 tokens/s cost
it a few percent of a core. Every token's text is its index and the monotonic time at which it
was sent (` 17:1234.567890`); the first one also carries when the request came in (`@1234.5 0:…`).
CLOCK_MONOTONIC is one clock for all processes of a machine, so readers subtract directly.

A turn is steered by words in its last input: `tokens=100`, `pace=20`, or `silent`.
"""

import argparse
import asyncio
import gc
import itertools
import json
import re
import time
from collections import Counter
from typing import Any, cast

import httptools
import uvloop

FIRST_TOKEN_S = 0.05
"""How long the model "thinks" before its first token; subtracted from what is reported."""

_TOKENS = re.compile(rb"tokens=(\d+)")
_PACE = re.compile(rb"pace=(\d+)")
_OPEN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

_ids = itertools.count(1)
_counts: Counter[str] = Counter()
_items: dict[str, list[dict[str, Any]]] = {}


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def _event(kind: str, number: int, **fields: object) -> bytes:
    data = _dumps({"type": kind, "sequence_number": number, **fields})
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


class _Stream:
    """One generation, ticking on an absolute schedule: a late tick does not delay the next."""

    def __init__(self, transport: asyncio.Transport, request: dict[str, Any], body: bytes) -> None:
        self._transport = transport
        self._received = time.monotonic()
        tokens, pace = _TOKENS.findall(body), _PACE.findall(body)
        self._tokens = int(tokens[-1]) if tokens else 100
        self._interval = 1.0 / int(pace[-1]) if pace else 0.05
        self._silent = b"silent" in body
        number = next(_ids)
        self._response_id, self._item_id = f"resp_bench{number:012d}", f"msg_bench{number:012d}"
        self._request = request
        self._index = 0
        self._text: list[str] = []
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        item = self._item("in_progress", [])
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        opening = [
            _event("response.created", 0, response=self._response("in_progress", [])),
            _event("response.in_progress", 1, response=self._response("in_progress", [])),
            _event("response.output_item.added", 2, output_index=0, item=item),
            _event(
                "response.content_part.added",
                3,
                item_id=self._item_id,
                output_index=0,
                content_index=0,
                part=part,
            ),
        ]
        self._transport.write(_OPEN + _chunk(b"".join(opening)))
        if not self._silent:
            self._schedule()

    def _schedule(self) -> None:
        due = self._received + FIRST_TOKEN_S + self._index * self._interval
        self._loop.call_later(max(0.0, due - time.monotonic()), self._tick)

    def _tick(self) -> None:
        if self._transport.is_closing():
            return
        mark = f"@{self._received:.6f}" if self._index == 0 else ""
        text = f"{mark} {self._index}:{time.monotonic():.6f}"
        self._text.append(text)
        # Hand-made JSON: the text holds nothing that needs escaping, and this is the hot path.
        data = (
            f'{{"type":"response.output_text.delta","sequence_number":{self._index + 4},'
            f'"item_id":"{self._item_id}","output_index":0,"content_index":0,'
            f'"delta":"{text}","logprobs":[]}}'
        )
        self._transport.write(
            _chunk(f"event: response.output_text.delta\ndata: {data}\n\n".encode()),
        )
        self._index += 1
        if self._index < self._tokens:
            self._schedule()
        else:
            self._finish()

    def _finish(self) -> None:
        number = self._index + 4
        text = "".join(self._text)
        place: dict[str, object] = {
            "item_id": self._item_id,
            "output_index": 0,
            "content_index": 0,
        }
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        item = self._item("completed", [part])
        _remember(self._request, item)
        closing = [
            _event("response.output_text.done", number, **place, text=text, logprobs=[]),
            _event("response.content_part.done", number + 1, **place, part=part),
            _event("response.output_item.done", number + 2, output_index=0, item=item),
            _event("response.completed", number + 3, response=self._response("completed", [item])),
        ]
        self._transport.write(_chunk(b"".join(closing)) + b"0\r\n\r\n")

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        thread = _thread_of(self._request)
        usage = {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self._tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 10 + self._tokens,
        }
        return {
            "id": self._response_id,
            "object": "response",
            "created_at": time.time(),
            "status": status,
            "background": False,
            "conversation": {"id": thread} if thread else None,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self._request.get("model", "bench"),
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": usage if status == "completed" else None,
        }


def _thread_of(request: dict[str, Any]) -> str | None:
    thread = request.get("conversation")
    return thread["id"] if isinstance(thread, dict) else thread


def _remember(request: dict[str, Any], answer: dict[str, Any]) -> None:
    thread = _thread_of(request)
    if thread is None:
        return
    given = request.get("input") or []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    items = _items.setdefault(thread, [])
    items.extend(_stored(item) for item in given)
    items.append(answer)


def _stored(item: dict[str, Any]) -> dict[str, Any]:
    content = item.get("content", [])
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    return {
        "id": f"msg_bench{next(_ids):012d}",
        "type": "message",
        "role": item.get("role", "user"),
        "status": "completed",
        "content": content,
    }


def _list(items: list[dict[str, Any]], query: str) -> dict[str, Any]:
    newest_first = "order=asc" not in query
    limit = re.search(r"limit=(\d+)", query)
    data = items[::-1] if newest_first else items
    if after := re.search(r"after=([\w-]+)", query):
        place = [item["id"] for item in data].index(after[1]) + 1
        data = data[place:]
    page = data[: int(limit[1]) if limit else 20]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(page) < len(data),
    }


class _Connection(asyncio.Protocol):
    """One keep-alive connection; requests come one after the other."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._body = b"", b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode().partition("?")
        segments = path.removeprefix("/v1/").strip("/").split("/")
        request = json.loads(self._body) if self._body else {}
        match (self._parser.get_method(), segments):
            case (b"POST", ["responses"]):
                _counts["POST /responses"] += 1
                _Stream(self._transport, request, self._body).start()
            case (b"POST", ["conversations"]):
                self._answer("POST /conversations", self._conversation(request))
            case (b"POST", ["conversations", thread, "items"]):
                added = [_stored(item) for item in request.get("items", [])]
                _items.setdefault(thread, []).extend(added)
                self._answer("POST …/items", _list(added, "order=asc"))
            case (b"GET", ["conversations", thread, "items"]):
                self._answer("GET …/items", _list(_items.get(thread, []), query))
            case (b"GET", ["bench", "counts"]):
                self._answer("", dict(_counts))
            case (method, _):
                error = {"message": "not here", "type": "invalid_request_error", "code": None}
                self._answer(f"{method.decode()} {path}: 404", {"error": error}, b"404 Not Found")

    @staticmethod
    def _conversation(request: dict[str, Any]) -> dict[str, Any]:
        thread = f"conv_bench{next(_ids):012d}"
        _items[thread] = [_stored(item) for item in request.get("items") or []]
        return {
            "id": thread,
            "object": "conversation",
            "created_at": int(time.time()),
            "metadata": request.get("metadata") or {},
        }

    def _answer(self, name: str, body: dict[str, Any], status: bytes = b"200 OK") -> None:
        if name:
            _counts[name] += 1
        payload = _dumps(body)
        self._transport.write(
            b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (status, len(payload), payload),
        )


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        _Connection,
        "127.0.0.1",
        port,
        backlog=2048,
    )
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve on the given port until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    gc.disable()  # a collection pause would be charged to whoever is measured
    uvloop.run(_serve(port))


if __name__ == "__main__":
    main()
