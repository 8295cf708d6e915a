"""The upstream adapter for Conversations + Responses, on `AsyncOpenAI`."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from app.adapters.responses import decode, request
from app.adapters.wire.client import Hearing, Listen, UpstreamConfig, WireClient
from app.adapters.wire.errors import translated
from app.adapters.wire.sse import EventDecoder
from app.domain.errors import ThreadLostError, UpstreamError
from app.domain.models import RunStatus
from app.ports import Ended, Generation, Thread, Turn

ITEMS_A_CALL: Final = 20
"""The most that one call may put into a conversation."""
POLL_S: Final = 0.5
LISTED: Final = 100
_UNKNOWN: Final = frozenset({"upstream_not_found", "upstream_rejected"})
_GONE: Final = frozenset({"upstream_not_found", ThreadLostError.code})
_RUNNING: Final = frozenset({"queued", "in_progress"})


class ResponsesUpstream:
    """A server that speaks Conversations + Responses."""

    def __init__(self, config: UpstreamConfig) -> None:
        self._config = config
        self._wire = WireClient(config)

    async def tidy(self) -> None:
        """A configuration goes with each request: nothing upstream stands for it."""

    @property
    def is_background(self) -> bool:
        """Whether a generation goes on when its listener is gone, and can be followed again."""
        return self._config.background

    async def aclose(self) -> None:
        """Close every connection."""
        await self._wire.aclose()

    # ------------------------------------------------------------ threads

    async def open_thread(self, turns: Sequence[Turn]) -> Thread | None:
        """Open a conversation that holds `turns`; None where the upstream has none."""
        items = [request.item(turn) for turn in turns]
        with translated():
            try:
                made = await self._wire.call(
                    "post", "/conversations", {"items": items[:ITEMS_A_CALL]}
                )
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
            await self._wire.call("post", path, {"items": items[start : start + ITEMS_A_CALL]})
        if not items:
            return None
        with translated():
            newest = await self._wire.call("get", path, query={"limit": 1, "order": "desc"})
            tail: str = newest["data"][0]["id"]
        return tail

    async def delete_thread(self, thread_id: str) -> None:
        """Delete it and what it holds; one that is gone already is fine."""
        path = f"/conversations/{thread_id}"
        seen: list[dict[str, Any]] = []
        with translated():
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
        with translated():
            await self._delete(f"/responses/{response_id}")

    async def _delete(self, path: str) -> None:
        try:
            await self._wire.call("delete", path)
        except UpstreamError as error:
            # Another worker may be at it too.
            if error.code not in _GONE:
                raise

    async def _items(self, thread_id: str, *, after: str | None) -> list[dict[str, Any]]:
        query = {"limit": LISTED, "order": "asc"} | ({"after": after} if after else {})
        page = await self._wire.call("get", f"/conversations/{thread_id}/items", query=query)
        return list(page["data"])

    # ------------------------------------------------------------ generations

    async def generate(self, generation: Generation, listen: Listen) -> Ended:
        """Ask for one answer; `listen` hears of it as it comes."""
        body = request.create(generation, background=self._config.background)
        return await self._wire.hear("/responses", _hearing(listen), body=body)

    async def _follow(self, response_id: str, listen: Listen) -> Ended:
        """Hear a background generation from its first event after `response.created`."""
        query = {"stream": "true", "starting_after": 0, "include_obfuscation": "false"}
        return await self._wire.hear(f"/responses/{response_id}", _hearing(listen), query=query)

    async def outcome(
        self, *, response_id: str | None, thread_id: str | None, tail: str | None, listen: Listen
    ) -> Ended | None:
        """Ask what became of a generation whose end was not seen; None if nothing did."""
        with translated():
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

    async def _response_outcome(self, response_id: str, listen: Listen) -> Ended | None:
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
            return await self._wire.call("get", f"/responses/{response_id}")
        except UpstreamError as error:
            # A foreground response is gone with its socket.
            if error.code in _UNKNOWN:
                return None
            raise

    async def cancel(self, response_id: str) -> Ended | None:
        """Stop a background generation; return how it ended."""
        with translated():
            try:
                response = await self._wire.call("post", f"/responses/{response_id}/cancel")
            except UpstreamError as error:
                if error.code not in _UNKNOWN:
                    raise
                # A foreground one can't be cancelled, but may have ended.
                found = await self._response(response_id)
                if found is None or found["status"] in _RUNNING:
                    return None
                response = found
            return await self._settled(response)


def _hearing(listen: Listen) -> Hearing[bytes]:
    return Hearing(EventDecoder().feed, decode.ResponseDecoder().decode, listen)
