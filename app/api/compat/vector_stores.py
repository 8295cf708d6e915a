"""Vector stores, as far as assistants need them."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from app.api import present
from app.api.compat import objects, store_bodies
from app.api.compat.deps import Caller
from app.api.compat.errors import WireRoute
from app.api.deps import PageOf, Services, path_id
from app.domain.models import JsonObject
from app.domain.stores import FileStatus, StoreFile, VectorStore
from app.domain.text import rfc3339
from app.services.stores import batch_of

router = APIRouter(route_class=WireRoute, prefix="/vector_stores")
POLL: Final = {"openai-poll-after-ms": str(objects.POLL_AFTER_MS)}


async def _store_id(store_id: Annotated[str, Path()]) -> str:
    return path_id(store_id)


async def _file_id(store_file_id: Annotated[str, Path()]) -> str:
    return path_id(store_file_id)


async def _batch_id(batch_id: Annotated[str, Path()]) -> str:
    return path_id(batch_id)


StoreId = Annotated[str, Depends(_store_id)]
StoreFileId = Annotated[str, Depends(_file_id)]
BatchId = Annotated[str, Depends(_batch_id)]
Filter = Annotated[Literal["in_progress", "completed", "failed", "cancelled"] | None, Query()]


@router.post("")
async def create_store(
    user: Caller, services: Services, wanted: store_bodies.StoreCreate | None = None
) -> Response:
    """Make one, with files in it if there are any."""
    wanted = wanted or store_bodies.StoreCreate()
    made = await services.stores.create(user, wanted.wanted(wanted.name or ""))
    return present.body(_store(made))


@router.get("")
async def list_stores(user: Caller, services: Services, page: PageOf) -> Response:
    """List them by age."""
    found = await services.stores.list(user, page)
    return objects.page([_store(item) for item in found.items], has_more=found.has_more)


@router.get("/{store_id}")
async def retrieve_store(user: Caller, services: Services, store_id: StoreId) -> Response:
    """Return one."""
    return present.body(_store(await services.stores.get(user, store_id)), headers=POLL)


@router.post("/{store_id}")
async def update_store(
    user: Caller, services: Services, store_id: StoreId, wanted: store_bodies.StoreUpdate
) -> Response:
    """Change its name or metadata."""
    given = wanted.model_fields_set
    changed = await services.stores.change(
        user,
        store_id,
        name=(wanted.name or "") if "name" in given else None,
        metadata=dict(wanted.metadata or {}) if "metadata" in given else None,
    )
    return present.body(_store(changed))


@router.delete("/{store_id}")
async def delete_store(user: Caller, services: Services, store_id: StoreId) -> Response:
    """Delete it; its files stay."""
    await services.stores.delete(user, store_id)
    return objects.deleted("vector_store", store_id)


@router.post("/{store_id}/files")
async def create_file(
    user: Caller, services: Services, store_id: StoreId, wanted: store_bodies.StoreFileCreate
) -> Response:
    """Put a file into it."""
    (made,) = await services.stores.add_files(user, store_id, wanted.wanted())
    return present.body(_file(made))


@router.get("/{store_id}/files")
async def list_files(
    user: Caller,
    services: Services,
    store_id: StoreId,
    page: PageOf,
    filter: Filter = None,  # noqa: A002 - the wire's name
) -> Response:
    """List its files by age."""
    found = await services.stores.files(user, store_id, page, status=filter)
    return objects.page([_file(item) for item in found.items], has_more=found.has_more)


@router.get("/{store_id}/files/{store_file_id}")
async def retrieve_file(
    user: Caller, services: Services, store_id: StoreId, store_file_id: StoreFileId
) -> Response:
    """Return what is known of a file in it."""
    found = await services.stores.file(user, store_id, store_file_id)
    return present.body(_file(found), headers=POLL)


@router.delete("/{store_id}/files/{store_file_id}")
async def delete_file(
    user: Caller, services: Services, store_id: StoreId, store_file_id: StoreFileId
) -> Response:
    """Take a file out of it; the file itself stays."""
    await services.stores.take_out(user, store_id, store_file_id)
    return objects.deleted("vector_store.file", store_file_id)


@router.post("/{store_id}/file_batches")
async def create_batch(
    user: Caller, services: Services, store_id: StoreId, wanted: store_bodies.StoreBatchCreate
) -> Response:
    """Put several files into it."""
    made = await services.stores.add_files(user, store_id, wanted.wanted(), is_batch=True)
    return present.body(_batch(made))


@router.get("/{store_id}/file_batches/{batch_id}")
async def retrieve_batch(
    user: Caller, services: Services, store_id: StoreId, batch_id: BatchId
) -> Response:
    """Return what became of files that came together."""
    store = await services.stores.get(user, store_id)
    return present.body(_batch(batch_of(store, batch_id)), headers=POLL)


@router.get("/{store_id}/file_batches/{batch_id}/files")
async def list_batch(  # noqa: PLR0913, PLR0917 - the wire's query
    user: Caller,
    services: Services,
    store_id: StoreId,
    batch_id: BatchId,
    page: PageOf,
    filter: Filter = None,  # noqa: A002 - the wire's name
) -> Response:
    """List files that came together, by age."""
    found = await services.stores.files(user, store_id, page, status=filter, batch_id=batch_id)
    return objects.page([_file(item) for item in found.items], has_more=found.has_more)


# ---------------------------------------------------------------- objects


def _counts(files: Sequence[StoreFile]) -> JsonObject:
    states = [file.status for file in files]
    return {**{status.value: states.count(status) for status in FileStatus}, "total": len(states)}


def _seconds(file: StoreFile | VectorStore) -> int | None:
    return None if file.created_at is None else objects.seconds(rfc3339(file.created_at))


def _store(found: VectorStore) -> JsonObject:
    return {
        "id": found.id,
        "object": "vector_store",
        "created_at": _seconds(found),
        "name": found.name,
        "usage_bytes": sum(file.usage_bytes for file in found.files),
        "file_counts": _counts(found.files),
        "status": "in_progress" if found.is_filling else "completed",
        "expires_after": None,
        "expires_at": None,
        "last_active_at": _seconds(found),
        "metadata": found.metadata,
    }


def _file(found: StoreFile) -> JsonObject:
    chunking: dict[str, Any] = found.chunking
    if chunking.get("type") == "auto":
        # What it is then, is the upstream's own choice.
        chunking = {"type": "other"}
    return {
        "id": found.file_id,
        "object": "vector_store.file",
        "created_at": _seconds(found),
        "usage_bytes": found.usage_bytes,
        "vector_store_id": found.store_id,
        "status": found.status,
        "last_error": found.error,
        "chunking_strategy": chunking,
        "attributes": {},
    }


def _batch(files: Sequence[StoreFile]) -> JsonObject:
    is_filling = any(file.status is FileStatus.IN_PROGRESS for file in files)
    return {
        "id": files[0].batch_id,
        "object": "vector_store.files_batch",
        "created_at": min(_seconds(file) or 0 for file in files),
        "vector_store_id": files[0].store_id,
        "status": "in_progress" if is_filling else "completed",
        "file_counts": _counts(files),
    }
