"""Streams that are heard one by one while they are few, and together once they are many.

Waking a task for each token of each stream costs a worker more than what it does with the token.
In a crowd the streams are left alone, and what has come for all of them is taken in one go, which
is then also one commit (ADR 0024).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from operator import attrgetter
from typing import Final, Protocol, cast

import httpx2

from app.adapters.wire.errors import interrupted
from app.ports import Ended

CROWD: Final = 24
"""So many streams are heard together, until fewer than half as many are open."""
PACE_S: Final = 0.045
"""From one hearing of a crowd to the next: less than readers notice."""

Take = Callable[[bytes], Ended | None]
"""Makes of a stream's next bytes what they mean; returns its end."""

_hidden: Final = attrgetter("stream._stream._aiohttp_response.content")


class Reader(Protocol):
    """What is used of `aiohttp.StreamReader`, where the bytes of an answer arrive."""

    def read_nowait(self) -> bytes:
        """Return what has come, if anything."""
        ...

    def is_eof(self) -> bool:
        """Tell whether all has come."""
        ...


def reader_of(response: httpx2.Response) -> Reader | None:
    """Return where a response's bytes arrive, which the SDK's transport hides.

    None with a transport that is built otherwise: its streams are heard one by one.
    """
    try:
        return cast("Reader", _hidden(response))
    except AttributeError:
        return None


def _unread(reader: Reader) -> bytes:
    buffer: Iterable[bytes] = getattr(reader, "_buffer", ())
    # Of the first piece a part may have been read while the stream was heard by itself.
    start: int = getattr(reader, "_buffer_offset", 0)
    return b"".join(buffer)[start:]


class _Heard:
    """One stream of a crowd."""

    def __init__(self, reader: Reader, take: Take) -> None:
        self._reader = reader
        self._take = take
        self.ended: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()

    def hear(self) -> None:
        """Take what has come."""
        if self.ended.done():
            return
        chunk: bytes | None = None
        is_over = True
        try:
            chunk = self._reader.read_nowait()
            is_over = not chunk and self._reader.is_eof()
        except Exception:  # noqa: BLE001, S110 - its stream raises it again, as the SDK would
            pass
        try:
            if chunk is None:
                # The connection broke, and what came before that is not given out any more: the
                # end of an answer that was paid for may be among it.
                chunk = _unread(self._reader)
            ended = self._take(chunk) if chunk else None
        except Exception as error:  # noqa: BLE001 - raised to who listens
            self.ended.set_exception(error)
            self.ended.exception()  # Retrieved here: the waiter may have been cancelled.
        else:
            if ended is not None or is_over:
                self.ended.set_result(ended)

    def release(self) -> None:
        """Let it be heard by itself again."""
        if not self.ended.done():
            self.ended.set_result(None)


class Ear:
    """Hears all streams of a client."""

    def __init__(self) -> None:
        self._open = 0
        self._crowd: dict[_Heard, None] = {}
        self._hearing: asyncio.Task[None] | None = None

    async def hear(self, response: httpx2.Response, take: Take) -> Ended:
        """Read a stream until `take` says that it has ended.

        Raises:
            UpstreamInterruptedError: It stops before its end.
            httpx2.HTTPError: Its connection breaks.
            Exception: Whatever `take` raises.
        """
        reader: Reader | None = None
        chunks: AsyncIterator[bytes] = response.aiter_bytes()
        if "content-encoding" not in response.headers:
            # What is plain need not pass a decoder and its wrappers.
            reader = reader_of(response)
            chunks = aiter(cast("httpx2.AsyncByteStream", response.stream))
        self._open += 1
        try:
            async for chunk in chunks:
                ended = take(chunk)
                if ended is None and reader is not None and self._open >= CROWD:
                    # Without an end it says next what its connection ended with, or goes on.
                    ended = await self._hear_with_others(reader, take)
                if ended is not None:
                    return ended
        finally:
            self._open -= 1
        raise interrupted()

    async def _hear_with_others(self, reader: Reader, take: Take) -> Ended | None:
        heard = _Heard(reader, take)
        self._crowd[heard] = None
        if self._hearing is None or self._hearing.done():
            self._hearing = asyncio.create_task(self._hear_crowd(), name="ear")
        try:
            return await heard.ended
        finally:
            del self._crowd[heard]

    async def _hear_crowd(self) -> None:
        while self._crowd:
            await asyncio.sleep(PACE_S)
            is_thin = self._open < CROWD // 2
            for heard in list(self._crowd):
                heard.hear()
                if is_thin:
                    heard.release()
