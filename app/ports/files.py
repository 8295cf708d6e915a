"""Users' files, the upstream that keeps them, and the ledger of all that is kept there."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from app.domain.files import StoredFile
from app.ports.records import Page, PageQuery


class FilePurpose(StrEnum):
    """What an upstream is told that a file is for."""

    VISION = "vision"
    ASSISTANTS = "assistants"
    USER_DATA = "user_data"


class KeptKind(StrEnum):
    """What an upstream may keep of a user."""

    THREAD = "thread"
    RESPONSE = "response"
    FILE = "file"
    VECTOR_STORE = "vector_store"


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry of the ledger: something that the upstream keeps, or may keep."""

    kind: KeptKind
    name: str
    """Our own id of it; the upstream's, where we give none."""
    upstream_id: str | None
    """None: the upstream's answer was never heard."""
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Held:
    """What a user keeps."""

    files: int
    """Those that are being sent included."""
    size: int
    """Bytes of those that were sent."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A file in something said, as the upstream knows it."""

    upstream_id: str
    is_image: bool


class Files(Protocol):
    """Users' files; every look-up is by owner."""

    async def held(self, user_id: str, *, lock: bool = False) -> Held:
        """Return what a user keeps; with `lock`, nobody else adds to it meanwhile."""
        ...

    async def add(self, file: StoredFile, upstream_id: str) -> StoredFile | None:
        """Keep one whose entry the ledger has; None if that entry was retired meanwhile."""
        ...

    async def get(self, user_id: str, file_id: str) -> StoredFile | None:
        """Return the user's file."""
        ...

    async def upstream_id(self, file_id: str) -> str | None:
        """Return what the upstream calls a file."""
        ...

    async def list(
        self, user_id: str, page: PageQuery, *, purpose: str | None = None
    ) -> Page[StoredFile]:
        """Return the user's files by age."""
        ...

    async def use(
        self, user_id: str, session_id: str, file_ids: Collection[str]
    ) -> Mapping[str, StoredFile]:
        """Note that they are used in a session; return those that the user has."""
        ...

    async def attached(self, session_id: str, file_ids: Collection[str]) -> Mapping[str, Attached]:
        """Return what the upstream calls files of a session's owner; the deleted are left out."""
        ...

    async def users_of(self, file_id: str) -> Sequence[str]:
        """Return the ids of living sessions that use a file, in order."""
        ...

    async def remove(self, file_id: str) -> None:
        """Delete one here, and retire its entry."""
        ...

    async def release(self, session_id: str) -> None:
        """Remove the files that a session which is being deleted was the last to use."""
        ...


class Ledger(Protocol):
    """What is kept upstream: entered before it is there, deleted until it is gone.

    Entries stay as the record of what was deleted, and when.
    """

    async def enter(
        self, kind: KeptKind, name: str, *, user_id: str, session_id: str | None = None
    ) -> None:
        """Write down what is about to be made; without an end it is retired after an hour."""
        ...

    async def made(self, kind: KeptKind, name: str, upstream_id: str) -> bool:
        """Write down the upstream's id; False if the entry was retired meanwhile."""
        ...

    async def retire(self, kind: KeptKind, name: str, upstream_id: str | None = None) -> None:
        """Have it deleted; with an id if it came after all."""
        ...

    async def due(self, limit: int) -> Sequence[Kept]:
        """Return what is to be deleted now; it is not due again before its time has doubled."""
        ...

    async def deleted(self, kept: Kept) -> None:
        """Record that the upstream keeps it no longer."""
        ...

    async def left(self, user_id: str) -> int:
        """Count what the upstream still keeps of a user."""
        ...


class UpstreamFiles(Protocol):
    """A server that keeps files. No file is ever held whole."""

    async def upload(
        self, name: str, media_type: str, purpose: FilePurpose, pieces: AsyncIterator[bytes]
    ) -> str:
        """Send a file while it is read; return the upstream's id.

        What `pieces` raises ends the upload, and passes through.

        Raises:
            UpstreamError: It was not taken, or its being taken was not heard.
        """
        ...

    def download(self, upstream_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a file's content, to be read while the block lasts.

        Raises:
            NotDownloadableError: The upstream does not give it back.
            NotFoundError: The upstream has no such file.
            UpstreamError: Anything else.
        """
        ...

    async def find(self, prefix: str, *, since: datetime) -> Sequence[str]:
        """Return the ids of files whose names begin so, among those made since then.

        Raises:
            UpstreamError: The upstream does not say, for now.
        """
        ...

    async def delete(self, upstream_id: str) -> None:
        """Delete it; one that is gone already is fine.

        Raises:
            UpstreamError: It can't be, for now.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
