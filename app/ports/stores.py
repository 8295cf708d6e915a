"""Vector stores, the upstream that keeps them, and what a tutor's tools work on."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from app.domain.models import JsonObject
from app.domain.stores import FileStatus, StoreFile, VectorStore
from app.ports.records import Page, PageQuery


@dataclass(frozen=True, slots=True)
class Resources:
    """What a tutor's tools work on, by our names and the upstream's."""

    upstream: Mapping[str, str] = field(default_factory=dict[str, str])
    """The upstream's id of a file or store, by ours; what was deleted is left out."""
    ours: Mapping[str, str] = field(default_factory=dict[str, str])
    """Our id of a file, by the upstream's: of those in the stores too."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the upstream tells of a file in a store."""

    status: FileStatus
    usage_bytes: int
    error: JsonObject | None


class Stores(Protocol):
    """Users' vector stores; every look-up is by owner."""

    async def count(self, user_id: str, *, lock: bool = False) -> int:
        """Count what a user has; with `lock`, nobody else adds to it meanwhile."""
        ...

    async def add(self, store: VectorStore, upstream_id: str) -> bool:
        """Keep one whose entry the ledger has; False if that entry was retired meanwhile."""
        ...

    async def get(
        self, user_id: str, store_id: str, *, for_update: bool = False
    ) -> VectorStore | None:
        """Return the user's store, with its files."""
        ...

    async def list(self, user_id: str, page: PageQuery) -> Page[VectorStore]:
        """Return the user's stores by age, with their files."""
        ...

    async def change(self, store_id: str, *, name: str, metadata: JsonObject) -> None:
        """Name one anew, and replace its metadata."""
        ...

    async def remove(self, store_id: str) -> None:
        """Delete one here, and retire its entry."""
        ...

    async def put(
        self,
        store_id: str,
        file_ids: Sequence[str],
        *,
        chunking: JsonObject,
        batch_id: str | None = None,
    ) -> None:
        """Note that files are in a store, those that were already anew."""
        ...

    async def take_out(self, store_id: str, file_id: str) -> None:
        """Note that a file is not in a store any more."""
        ...

    async def told(self, store_id: str, found: Mapping[str, Taken]) -> None:
        """Note what the upstream tells of files, by their upstream ids."""
        ...

    async def list_files(
        self, store_id: str, page: PageQuery, *, status: str | None, batch_id: str | None
    ) -> Page[StoreFile]:
        """Return a store's files by age."""
        ...

    async def upstream_id(self, store_id: str) -> str | None:
        """Return what the upstream calls a store."""
        ...

    async def owned(self, user_id: str, ids: Collection[str]) -> Mapping[str, str]:
        """Return what the upstream calls files and stores of a user, by our ids."""
        ...

    async def resources(self, ids: Collection[str]) -> Resources:
        """Return what files and stores are called, and the files in those stores."""
        ...


class UpstreamStores(Protocol):
    """A server that keeps vector stores."""

    async def create(self, name: str, file_ids: Sequence[str], chunking: JsonObject) -> str:
        """Make one that holds files; return the upstream's id.

        Raises:
            UpstreamError: It was not made, or its being made was not heard.
        """
        ...

    async def add(self, store_id: str, file_ids: Sequence[str], chunking: JsonObject) -> None:
        """Put files into one.

        Raises:
            UpstreamError: They were not taken, or that was not heard.
        """
        ...

    async def take_out(self, store_id: str, file_id: str) -> None:
        """Take a file out of one; one that is gone already is fine.

        Raises:
            UpstreamError: It can't be, for now.
        """
        ...

    async def files(self, store_id: str) -> Mapping[str, Taken]:
        """Return what became of its files, by the upstream's ids.

        Raises:
            UpstreamError: The upstream does not say, for now.
        """
        ...

    async def find(self, name: str, *, since: datetime) -> Sequence[str]:
        """Return the ids of stores of a name, among those made since then.

        Raises:
            UpstreamError: The upstream does not say, for now.
        """
        ...

    async def delete(self, store_id: str) -> None:
        """Delete one; one that is gone already is fine.

        Raises:
            UpstreamError: It can't be, for now.
        """
        ...


NO_RESOURCES = Resources()
"""Of a tutor whose tools need none."""
