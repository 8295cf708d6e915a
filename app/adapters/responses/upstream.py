"""The upstream adapter for Conversations + Responses, on `AsyncOpenAI`.

No call is retried by the SDK: it sends no idempotency key, so a retried POST is a second
generation. The stream is decoded from raw bytes: a typed object per delta costs more than all
the rest of a relay.
"""

import asyncio
import json
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

import aiohttp
import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream, DefaultAioHttpClient

from app.adapters.responses import decode
from app.adapters.responses.errors import interrupted, translate
from app.adapters.responses.sse import EventDecoder
from app.domain.errors import ThreadLostError, UpstreamError
from app.domain.models import Role, RunStatus
from app.ports import Ended, Generation, Thread, Turn, UpstreamEvent

_Call = Callable[..., Awaitable[httpx2.Response]]

ITEMS_A_CALL: Final = 20
"""The most that one call may put into a conversation."""
POLL_S: Final = 0.5
PATIENCE_STEP_S: Final = 0.5
"""The idle timeout is moved on at most this often: a timer for each token costs too much."""
LISTED: Final = 100
_UNKNOWN: Final = frozenset({"upstream_not_found", "upstream_rejected"})
_GONE: Final = frozenset({"upstream_not_found", ThreadLostError.code})


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """Where the upstream is, and how long it may be silent."""

    api_key: str
    base_url: str | None
    first_byte_s: float
    idle_s: float
    max_connections: int


class ResponsesUpstream:
    """A server that speaks Conversations + Responses."""

    def __init__(self, config: UpstreamConfig) -> None:
        self._config = config
        limits = httpx2.Limits(
            max_connections=config.max_connections,
            max_keepalive_connections=config.max_connections,
        )
        timeout = httpx2.Timeout(config.first_byte_s, connect=10, read=None)
        self._client = AsyncOpenAI(
            api_key=config.api_key,
            base_url=config.base_url,
            max_retries=0,
            timeout=timeout,
            http_client=DefaultAioHttpClient(
                limits=limits, timeout=timeout, follow_redirects=False
            ),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.close()

    # ------------------------------------------------------------ threads

    async def open_thread(self, turns: Sequence[Turn]) -> Thread | None:
        """Open a conversation that holds `turns`; None where the upstream has none."""
        items = [_item(turn) for turn in turns]
        with _translated():
            try:
                made = await self._call("post", "/conversations", {"items": items[:ITEMS_A_CALL]})
            except UpstreamError as error:
                if error.code in _GONE:
                    return None
                raise
            thread_id: str = made["id"]
            try:
                tail = await self._fill(thread_id, items)
            except UpstreamError:
                # Nobody knows of it yet, so nobody else would ever delete it.
                with suppress(UpstreamError):
                    await self.delete_thread(thread_id)
                raise
        return Thread(thread_id, 0, tail)

    async def _fill(self, thread_id: str, items: Sequence[dict[str, Any]]) -> str | None:
        """Add what the first call had no room for; return the newest item's id."""
        path = f"/conversations/{thread_id}/items"
        for start in range(ITEMS_A_CALL, len(items), ITEMS_A_CALL):
            await self._call("post", path, {"items": items[start : start + ITEMS_A_CALL]})
        if not items:
            return None
        with _translated():
            newest = await self._call("get", path, query={"limit": 1, "order": "desc"})
            tail: str = newest["data"][0]["id"]
        return tail

    async def delete_thread(self, thread_id: str) -> None:
        """Delete it and what it holds; one that is gone already is fine."""
        path = f"/conversations/{thread_id}"
        seen: list[dict[str, Any]] = []
        with _translated():
            try:
                # Deleting a conversation keeps its items. A list that does not get shorter is
                # not worth reading for ever.
                while (items := await self._items(thread_id, after=None)) and items != seen:
                    for item in items:
                        await self._delete(f"{path}/items/{item['id']}")
                    seen = items
            except ThreadLostError:
                return
            await self._delete(path)

    async def _delete(self, path: str) -> None:
        try:
            await self._call("delete", path)
        except UpstreamError as error:
            # Another worker may be at it too.
            if error.code not in _GONE:
                raise

    async def _items(self, thread_id: str, *, after: str | None) -> list[dict[str, Any]]:
        query = {"limit": LISTED, "order": "asc"} | ({"after": after} if after else {})
        page = await self._call("get", f"/conversations/{thread_id}/items", query=query)
        return list(page["data"])

    # ------------------------------------------------------------ generations

    async def generate(
        self, generation: Generation, listen: Callable[[UpstreamEvent], None]
    ) -> Ended:
        """Ask for one answer; `listen` hears of it as it comes."""
        with _translated():
            async with asyncio.timeout(self._config.first_byte_s) as limit:
                # The bytes are read, not the stream's typed events, nor is the request's body
                # walked through its types.
                stream = await self._client.post(
                    "/responses",
                    cast_to=object,
                    body=_request(generation),
                    stream=True,
                    stream_cls=AsyncStream[object],
                    # Compression holds tokens back until a block is full.
                    options={"headers": {"Accept-Encoding": "identity"}},
                )
                try:
                    return await self._read(stream.response, limit, listen)
                finally:
                    await stream.response.aclose()

    async def _read(
        self,
        response: httpx2.Response,
        limit: asyncio.Timeout,
        listen: Callable[[UpstreamEvent], None],
    ) -> Ended:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise interrupted("upstream_garbage")
        events, decoder = EventDecoder(), decode.ResponseDecoder()
        clock = asyncio.get_running_loop().time
        moved = 0.0
        chunks: AsyncIterator[bytes] = response.aiter_bytes()
        if "content-encoding" not in response.headers:
            # Every token passes here: what is plain need not pass a decoder and its wrappers.
            chunks = aiter(cast("httpx2.AsyncByteStream", response.stream))
        async for chunk in chunks:
            now = clock()
            if now - moved > PATIENCE_STEP_S:
                moved = now
                limit.reschedule(now + PATIENCE_STEP_S + self._config.idle_s)
            for data in events.feed(chunk):
                for event in decoder.decode(data):
                    if isinstance(event, Ended):
                        return event
                    listen(event)
        raise interrupted()

    async def outcome(
        self, *, response_id: str | None, thread_id: str | None, tail: str | None
    ) -> Ended | None:
        """Ask what became of a generation whose end was not seen; None if nothing did."""
        with _translated():
            if response_id is not None:
                ended = await self._response_outcome(response_id)
                if ended is not None:
                    return ended
            if thread_id is None:
                return None
            try:
                items = await self._items(thread_id, after=tail)
            except UpstreamError as error:
                if error.code in _UNKNOWN:
                    # The tail is not there any more: what stands in its place can't be told.
                    raise ThreadLostError from None
                raise
            if not items:
                return None
            content = decode.parts(items)
            if not content or decode.tool_calls(items):
                raise ThreadLostError
            return Ended(RunStatus.COMPLETED, content, usage=None, tail=items[-1]["id"])

    async def _response_outcome(self, response_id: str) -> Ended | None:
        while True:
            try:
                response = await self._call("get", f"/responses/{response_id}")
            except UpstreamError as error:
                # A foreground response is gone with its socket.
                if error.code in _UNKNOWN:
                    return None
                raise
            if response["status"] not in {"queued", "in_progress"}:
                return decode.ended(response)
            await asyncio.sleep(POLL_S)

    # ------------------------------------------------------------ calls

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call and read plain JSON: these objects are small, and only ids of them are used."""
        options: dict[str, Any] = {"params": dict(query)} if query else {}
        with _translated():
            async with asyncio.timeout(self._config.first_byte_s):
                arguments: dict[str, Any] = {"cast_to": httpx2.Response, "options": options}
                if body is not None:
                    arguments["body"] = body
                call = cast("_Call", getattr(self._client, method))
                response = await call(path, **arguments)
                found: Any = json.loads(response.content)
            if not isinstance(found, dict):
                raise TypeError
        return cast("dict[str, Any]", found)


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except openai.InternalServerError as error:
        # A gateway may say so of a generation that goes on behind it.
        failed = translate(error)
        failed.generated = True
        raise failed from None
    except (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, TimeoutError) as error:
        raise translate(error) from None
    except decode.UNREADABLE:
        raise interrupted("upstream_garbage") from None


def _item(turn: Turn) -> dict[str, Any]:
    kind = "input_text" if turn.role is Role.USER else "output_text"
    content = [{"type": kind, "text": text} for text in turn.texts if text]
    return {"type": "message", "role": turn.role.value, "content": content}


def _request(generation: Generation) -> dict[str, Any]:
    config = generation.config
    request: dict[str, Any] = {
        "model": generation.model,
        "input": [_item(turn) for turn in generation.turns],
        "stream": True,
        "store": generation.thread_id is not None,
        "stream_options": {"include_obfuscation": False},
        "safety_identifier": generation.safety_id,
    }
    if generation.thread_id is not None:
        request["conversation"] = generation.thread_id
    if config.instructions:
        request["instructions"] = config.instructions
    if config.tools:
        request["tools"] = [_tool(tool) for tool in config.tools]
    # Left out at their defaults: reasoning models refuse them.
    for name in ("temperature", "top_p"):
        if getattr(config, name) != 1.0:
            request[name] = getattr(config, name)
    if config.max_output_tokens is not None:
        request["max_output_tokens"] = config.max_output_tokens
    if config.response_format != "auto":
        request["text"] = {"format": _format(config.response_format)}
    return request


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Assistants nest a function's name and schema; Responses have them flat."""
    if tool.get("type") == "function" and "function" in tool:
        return {"type": "function", "strict": False, **tool["function"]}
    return tool


def _format(wanted: dict[str, Any]) -> dict[str, Any]:
    if wanted.get("type") == "json_schema" and "json_schema" in wanted:
        return {"type": "json_schema", **wanted["json_schema"]}
    return wanted
