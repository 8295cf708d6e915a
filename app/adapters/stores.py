"""Vector stores of any upstream that speaks the wire: they are the same in all its dialects."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from app.adapters.files import CLOCKS_APART, LISTED, WireFiles
from app.domain.errors import UpstreamError
from app.domain.models import JsonObject
from app.domain.stores import FileStatus
from app.domain.text import clean
from app.ports import Taken

PATH: Final = "/vector_stores"
_ERRORS: Final = frozenset({"server_error", "unsupported_file", "invalid_file"})


class WireStores:
    """A server that keeps vector stores as the wire has them."""

    def __init__(self, files: WireFiles) -> None:
        """Share the connections for files."""
        self._files = files

    async def create(self, name: str, file_ids: Sequence[str], chunking: JsonObject) -> str:
        """Make one that holds files; return the upstream's id."""
        body: dict[str, Any] = {"name": name}
        if file_ids:
            body |= {"file_ids": list(file_ids), "chunking_strategy": chunking}
        made = await self._files.call("post", PATH, body=body)
        return _text(made.get("id"))

    async def add(self, store_id: str, file_ids: Sequence[str], chunking: JsonObject) -> None:
        """Put files into one."""
        if len(file_ids) == 1:
            body = {"file_id": file_ids[0], "chunking_strategy": chunking}
            await self._files.call("post", f"{_store(store_id)}/files", body=body)
            return
        body = {"file_ids": list(file_ids), "chunking_strategy": chunking}
        await self._files.call("post", f"{_store(store_id)}/file_batches", body=body)

    async def take_out(self, store_id: str, file_id: str) -> None:
        """Take a file out of one; one that is gone already is fine."""
        await self._files.discard(f"{_store(store_id)}/files/{quote(file_id, safe='')}")

    async def files(self, store_id: str) -> Mapping[str, Taken]:
        """Return what became of its files, by the upstream's ids."""
        items = await self._all(f"{_store(store_id)}/files", since=0)
        return {str(item["id"]): _taken(item) for item in items}

    async def find(self, name: str, *, since: datetime) -> Sequence[str]:
        """Return the ids of stores of a name, among those made since then."""
        items = await self._all(PATH, since=(since - CLOCKS_APART).timestamp())
        return [str(item["id"]) for item in items if item.get("name") == name]

    async def _all(self, path: str, *, since: float) -> list[dict[str, Any]]:
        """Return a list's items, the newest first, as far back as that."""
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": LISTED, "order": "desc"}
        while True:
            page = await self._files.call("get", path, query)
            items: list[dict[str, Any]] = page.get("data") or []
            found += items
            if not page.get("has_more") or not items or items[-1]["created_at"] < since:
                return found
            query["after"] = items[-1]["id"]

    async def delete(self, store_id: str) -> None:
        """Delete one; one that is gone already is fine."""
        await self._files.discard(_store(store_id))


def _store(store_id: str) -> str:
    return f"{PATH}/{quote(store_id, safe='')}"


def _taken(item: Mapping[str, Any]) -> Taken:
    error: dict[str, Any] | None = item.get("last_error")
    kept: JsonObject | None = None
    if error is not None:
        code = error.get("code")
        # The vendor's words may hold the file's name, or a part of what it says.
        kept = {
            "code": code if code in _ERRORS else "server_error",
            "message": "The file could not be taken in.",
        }
    try:
        status = FileStatus(item.get("status", ""))
    except ValueError:
        status = FileStatus.IN_PROGRESS
    size = item.get("usage_bytes")
    return Taken(status, size if isinstance(size, int) else 0, kept)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UpstreamError(code="upstream_garbage")
    return clean(value)
