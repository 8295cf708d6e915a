"""Bodies about vector stores, as the wire has them."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from app.api.compat.fields import Strict, only
from app.api.fields import Line, Metadata, PublicId
from app.services import stores

MAX_STORE_FILES: Final = 500
"""That one call may add."""


class StaticChunking(Strict):
    """The size of the pieces."""

    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0, le=2048)]


class Chunking(Strict):
    """How files are cut up, to be searched."""

    type: Literal["auto", "static"]
    static: StaticChunking | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Chunking":
        if (self.static is None) is (self.type == "static"):
            raise PydanticCustomError("invalid", "Must be 'auto', or 'static' with its numbers")
        return self

    def written(self) -> dict[str, Any]:
        """Return it as it is kept, and sent on."""
        return self.model_dump(exclude_none=True)


StoreName = Annotated[Line, StringConstraints(max_length=256)]
FileIds = Annotated[list[PublicId], Field(max_length=MAX_STORE_FILES)]


class NewStore(Strict):
    """A vector store that is made with an assistant."""

    file_ids: FileIds | None = None
    chunking_strategy: Chunking | None = None
    metadata: Metadata | None = None
    expires_after: Annotated[Any, only()] = None

    def wanted(self, name: str = "") -> stores.Wanted:
        """Return the store that is wanted."""
        chunking = self.chunking_strategy or Chunking(type="auto")
        return stores.Wanted(
            name,
            list(dict.fromkeys(self.file_ids or ())),
            chunking.written(),
            dict(self.metadata or {}),
        )


class StoreCreate(NewStore):
    """A new vector store."""

    name: StoreName | None = None
    description: Annotated[Any, only("")] = None


class StoreUpdate(Strict):
    """Changes to a vector store; what is left out stays."""

    name: StoreName | None = None
    metadata: Metadata | None = None
    expires_after: Annotated[Any, only()] = None


class StoreFileCreate(Strict):
    """A file for a vector store."""

    file_id: PublicId
    chunking_strategy: Chunking | None = None
    attributes: Annotated[Any, only({})] = None

    def wanted(self) -> stores.Wanted:
        """Return what is to be put into the store."""
        chunking = self.chunking_strategy or Chunking(type="auto")
        return stores.Wanted(file_ids=[self.file_id], chunking=chunking.written())


class StoreBatchCreate(Strict):
    """Several files for a vector store."""

    file_ids: Annotated[FileIds, Field(min_length=1)]
    chunking_strategy: Chunking | None = None
    attributes: Annotated[Any, only({})] = None

    def wanted(self) -> stores.Wanted:
        """Return what is to be put into the store."""
        chunking = self.chunking_strategy or Chunking(type="auto")
        file_ids = list(dict.fromkeys(self.file_ids))
        return stores.Wanted(file_ids=file_ids, chunking=chunking.written())
