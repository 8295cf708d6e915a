"""Vector stores: users' collections of files that a tutor may search."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.models import JsonObject


class FileStatus(StrEnum):
    """What became of a file that a store takes in."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class StoreFile:
    """A file in a store, as the upstream last told of it."""

    store_id: str
    file_id: str
    status: FileStatus
    usage_bytes: int
    """What it takes once it is cut up and indexed."""
    error: JsonObject | None
    """`code` and `message`."""
    chunking: JsonObject
    batch_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class VectorStore:
    """A collection of files."""

    id: str
    user_id: str
    name: str
    metadata: JsonObject
    created_at: datetime | None = None
    """None until it is stored."""
    files: Sequence[StoreFile] = ()
    """The oldest first."""

    @property
    def is_filling(self) -> bool:
        """Whether the upstream is at work on a file yet."""
        return any(file.status is FileStatus.IN_PROGRESS for file in self.files)
