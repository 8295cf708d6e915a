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

from app.adapters.responses import decode, request
from app.adapters.responses.errors import interrupted, translate
from app.adapters.responses.sse import EventDecoder
from app.domain.errors import ThreadLostError, UpstreamError
from app.domain.models import RunStatus
from app.ports import Ended, Generation, Thread, Turn, UpstreamEvent

_Call = Callable[..., Awaitable[httpx2.Response]]
_Open = Callable[..., Awaitable[AsyncStream[object]]]
_Listen = Callable[[UpstreamEvent], None]

ITEMS_A_CALL: Final = 20
"""The most that one call may put into a conversation."""
POLL_S: Final = 0.5
PATIENCE_STEP_S: Final = 0.5
"""The idle timeout is moved on at most this often: a timer for each token costs too much."""
LISTED: Final = 100
_UNKNOWN: Final = frozenset({"upstream_not_found", "upstream_rejected"})
_GONE: Final = frozenset({"upstream_not_found", ThreadLostError.code})
_RUNNING: Final = frozenset({"queued", "in_progress"})


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """Where the upstream is, and how long it may be silent."""

    api_key: str
    base_url: str | None
    first_byte_s: float
    idle_s: float
    max_connections: int
    background: bool = False
    """Whether generations are to outlive their connections."""


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

    @property
    def is_background(self) -> bool:
        """Whether a generation goes on when its listener is gone, and can be followed again."""
        return self._config.background

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.close()

    # ------------------------------------------------------------ threads

    async def open_thread(self, turns: Sequence[Turn]) -> Thread | None:
        """Open a conversation that holds `turns`; None where the upstream has none."""
        items = [request.item(turn) for turn in turns]
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

    async def delete_response(self, response_id: str) -> None:
        """Delete a generation's own record; one that is gone already is fine."""
        with _translated():
            await self._delete(f"/responses/{response_id}")

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

    async def generate(self, generation: Generation, listen: _Listen) -> Ended:
        """Ask for one answer; `listen` hears of it as it comes."""
        body = request.create(generation, background=self._config.background)
        return await self._heard(self._client.post, "/responses", listen, body=body)

    async def _follow(self, response_id: str, listen: _Listen) -> Ended:
        """Hear a background generation from its first event after `response.created`."""
        query = {"stream": "true", "starting_after": 0, "include_obfuscation": "false"}
        path = f"/responses/{response_id}"
        return await self._heard(self._client.get, path, listen, query=query)

    async def _heard(
        self,
        call: _Open,
        path: str,
        listen: _Listen,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Ended:
        """Open a stream and read it to its end."""
        # Compression holds tokens back until a block is full.
        options: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}}
        if query is not None:
            options["params"] = dict(query)
        arguments: dict[str, Any] = {} if body is None else {"body": body}
        with _translated():
            async with asyncio.timeout(self._config.first_byte_s) as limit:
                # The bytes are read, not the stream's typed events, nor is the request's body
                # walked through its types.
                stream = await call(
                    path,
                    cast_to=object,
                    stream=True,
                    stream_cls=AsyncStream[object],
                    options=options,
                    **arguments,
                )
                try:
                    return await self._read(stream.response, limit, listen)
                finally:
                    await stream.response.aclose()

    async def _read(
        self,
        response: httpx2.Response,
        limit: asyncio.Timeout,
        listen: _Listen,
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
        self, *, response_id: str | None, thread_id: str | None, tail: str | None, listen: _Listen
    ) -> Ended | None:
        """Ask what became of a generation whose end was not seen; None if nothing did."""
        with _translated():
            if response_id is not None:
                ended = await self._response_outcome(response_id, listen)
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

    async def _response_outcome(self, response_id: str, listen: _Listen) -> Ended | None:
        response = await self._response(response_id)
        if response is None:
            return None
        if response["status"] in _RUNNING and response.get("background"):
            try:
                return await self._follow(response_id, listen)
            except UpstreamError as error:
                # A stream is kept for some minutes only; the response goes on, unheard.
                if error.code not in _UNKNOWN:
                    raise
        return await self._settled(response)

    async def _settled(self, response: dict[str, Any]) -> Ended | None:
        """Wait for a response's end; None if the upstream forgets it meanwhile."""
        found: dict[str, Any] | None = response
        while found is not None and found["status"] in _RUNNING:
            await asyncio.sleep(POLL_S)
            found = await self._response(response["id"])
        return None if found is None else decode.ended(found)

    async def _response(self, response_id: str) -> dict[str, Any] | None:
        """Read a response; None if the upstream does not know it."""
        try:
            return await self._call("get", f"/responses/{response_id}")
        except UpstreamError as error:
            # A foreground response is gone with its socket.
            if error.code in _UNKNOWN:
                return None
            raise

    async def cancel(self, response_id: str) -> Ended | None:
        """Stop a background generation; return how it ended."""
        with _translated():
            try:
                response = await self._call("post", f"/responses/{response_id}/cancel")
            except UpstreamError as error:
                if error.code not in _UNKNOWN:
                    raise
                # A foreground one can't be cancelled, but may have ended.
                found = await self._response(response_id)
                if found is None or found["status"] in _RUNNING:
                    return None
                response = found
            return await self._settled(response)

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
