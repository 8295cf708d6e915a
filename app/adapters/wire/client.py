"""The vendor's client, for plain calls and for streams that are read as raw bytes.

No call is retried by the SDK: it sends no idempotency key, so a retried POST is a second
generation. The stream is decoded from raw bytes: a typed object per delta costs more than all
the rest of a relay.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

import httpx2
from openai import AsyncOpenAI, AsyncStream, DefaultAioHttpClient

from app.adapters.wire.ear import Ear, Take
from app.adapters.wire.errors import interrupted, translated
from app.adapters.wire.values import load
from app.ports import Ended, UpstreamEvent

T = TypeVar("T")
Listen = Callable[[UpstreamEvent], None]
_Call = Callable[..., Awaitable[httpx2.Response]]
_Open = Callable[..., Awaitable[AsyncStream[object]]]

PATIENCE_STEPS: Final = 10
"""The idle timeout is moved on at most so often within its own length: a timer for each token
costs too much. Silence is noticed by one such step later at most."""


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


@dataclass(frozen=True, slots=True)
class Hearing(Generic[T]):
    """Who makes what of a stream: chunks to events, events to ours, ours to a listener."""

    split: Callable[[bytes], Iterable[T]]
    decode: Callable[[T], Iterable[UpstreamEvent | Ended]]
    listen: Listen


class WireClient:
    """Calls and streams of one upstream; what fails is a domain error."""

    def __init__(self, config: UpstreamConfig, headers: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._ear = Ear()
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
            default_headers=headers,
            http_client=DefaultAioHttpClient(
                limits=limits, timeout=timeout, follow_redirects=False
            ),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call and read plain JSON: these objects are small, and only ids of them are used.

        Raises:
            UpstreamError: It fails.
        """
        return (await self.answer(method, path, body, query))[0]

    async def answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Call as `call` does; return the headers too."""
        options: dict[str, Any] = {"params": dict(query)} if query else {}
        with translated():
            async with asyncio.timeout(self._config.first_byte_s):
                arguments: dict[str, Any] = {"cast_to": httpx2.Response, "options": options}
                if body is not None:
                    arguments["body"] = body
                call = cast("_Call", getattr(self._client, method))
                response = await call(path, **arguments)
                found: Any = load(response.content)
            if not isinstance(found, dict):
                raise TypeError
        return cast("dict[str, Any]", found), response.headers

    async def hear(
        self,
        path: str,
        hearing: Hearing[T],
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Ended:
        """Open a stream, by POST if there is a body, and read it to its end.

        Raises:
            UpstreamError: It can't be opened, says that it failed, or stops before its end.
        """
        # Compression holds tokens back until a block is full.
        options: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}}
        if query is not None:
            options["params"] = dict(query)
        arguments: dict[str, Any] = {} if body is None else {"body": body}
        call = cast("_Open", self._client.get if body is None else self._client.post)
        with translated():
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
                    return await self._read(stream.response, limit, hearing)
                finally:
                    await stream.response.aclose()

    async def _read(
        self, response: httpx2.Response, limit: asyncio.Timeout, hearing: Hearing[T]
    ) -> Ended:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise interrupted("upstream_garbage")
        return await self._ear.hear(response, self._taking(limit, hearing))

    def _taking(self, limit: asyncio.Timeout, hearing: Hearing[T]) -> Take:
        """Return what tells a stream's listener, and puts off the time when it is given up."""
        split, decode, listen = hearing.split, hearing.decode, hearing.listen
        clock = asyncio.get_running_loop().time
        idle_s = self._config.idle_s
        step_s = idle_s / PATIENCE_STEPS
        moved = float("-inf")

        def take(chunk: bytes) -> Ended | None:
            # Every token passes here.
            nonlocal moved
            now = clock()
            if now - moved > step_s:
                moved = now
                limit.reschedule(now + step_s + idle_s)
            for each in split(chunk):
                for event in decode(each):
                    if isinstance(event, Ended):
                        return event
                    listen(event)
            return None

        return take
