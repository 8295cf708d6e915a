"""Users' vector stores, their files, and what tutors' tools work on."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.driver import Driver
from app.adapters.postgres.kept_tables import StoreFileRow, VectorStoreRow
from app.adapters.postgres.rows import AnyRow, Listing, page_of
from app.domain.models import JsonObject
from app.domain.stores import FileStatus, StoreFile, VectorStore
from app.ports import Page, PageQuery, Resources, Taken

_LOCK_USER = "SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE"

_COUNT = """
SELECT (SELECT count(*) FROM vector_stores WHERE user_id = $1)
    + (SELECT count(*) FROM upstream_objects
       WHERE user_id = $1 AND kind = 'vector_store' AND upstream_id IS NULL
           AND retired_at IS NULL AND deleted_at IS NULL)
"""

_ADD = """
WITH entry AS (
    UPDATE upstream_objects SET upstream_id = $5
    WHERE kind = 'vector_store' AND name = $1 AND retired_at IS NULL
    RETURNING name
)
INSERT INTO vector_stores (id, user_id, name, meta)
SELECT $1, $2, $3, $4::jsonb FROM entry
RETURNING id
"""

_REMOVE = (
    """
    UPDATE upstream_objects SET retired_at = now(), retry_at = now()
    WHERE kind = 'vector_store' AND name = $1 AND retired_at IS NULL
    """,
    "DELETE FROM vector_stores WHERE id = $1",
)

# A file that was deleted meanwhile is in no store either.
_PUT = """
INSERT INTO vector_store_files (store_id, file_id, batch_id, status, usage_bytes, chunking)
SELECT $1, f.id, $3, 'in_progress', 0, $4::jsonb FROM files f
WHERE f.id = ANY($2::text[]) ORDER BY f.id FOR KEY SHARE
ON CONFLICT (store_id, file_id) DO UPDATE
SET batch_id = excluded.batch_id, status = 'in_progress', error = NULL,
    chunking = excluded.chunking, created_at = excluded.created_at
"""

_TOLD = """
UPDATE vector_store_files v
SET status = n.status, usage_bytes = n.usage_bytes, error = n.error
FROM jsonb_to_recordset($2::jsonb)
    AS n (upstream_id text, status text, usage_bytes bigint, error jsonb)
JOIN upstream_objects o ON o.kind = 'file' AND o.upstream_id = n.upstream_id
WHERE v.store_id = $1 AND v.file_id = o.name
"""

_UPSTREAM_ID = """
SELECT upstream_id FROM upstream_objects WHERE kind = 'vector_store' AND name = $1
"""

_OWNED = """
SELECT o.name, o.upstream_id FROM upstream_objects o
WHERE o.name = ANY($2::text[]) AND o.kind IN ('file', 'vector_store') AND o.user_id = $1
    AND o.upstream_id IS NOT NULL AND o.retired_at IS NULL
"""

# Files of the stores are wanted for their names alone, which citations bear.
_RESOURCES = """
SELECT o.kind, o.name, o.upstream_id FROM upstream_objects o
WHERE o.kind IN ('file', 'vector_store') AND o.upstream_id IS NOT NULL AND o.retired_at IS NULL
    AND o.name IN (
        SELECT unnest($1::text[])
        UNION SELECT file_id FROM vector_store_files WHERE store_id = ANY($1::text[]))
"""


class PostgresStores:
    """Users' vector stores, inside one transaction."""

    def __init__(self, connection: AsyncConnection, driver: Driver) -> None:
        self._connection = connection
        self._driver = driver

    async def count(self, user_id: str, *, lock: bool = False) -> int:
        """Count what a user has; with `lock`, nobody else adds to it meanwhile."""
        if lock:
            await self._driver.execute(_LOCK_USER, user_id)
        return await self._driver.fetchval(_COUNT, user_id) or 0

    async def add(self, store: VectorStore, upstream_id: str) -> bool:
        """Keep one whose entry the ledger has; False if that entry was retired meanwhile."""
        meta = json.dumps(store.metadata)
        made = await self._driver.fetchval(
            _ADD, store.id, store.user_id, store.name, meta, upstream_id
        )
        return made is not None

    async def get(
        self, user_id: str, store_id: str, *, for_update: bool = False
    ) -> VectorStore | None:
        """Return the user's store, with its files."""
        lock = " FOR UPDATE" if for_update else ""
        row = await self._driver.fetchrow(
            f"SELECT * FROM vector_stores WHERE id = $1 AND user_id = $2{lock}",  # noqa: S608
            store_id,
            user_id,
        )
        if row is None:
            return None
        return (await self._filled([_store_of(row)]))[0]

    async def list(self, user_id: str, page: PageQuery) -> Page[VectorStore]:
        """Return the user's stores by age, with their files."""
        query = select(VectorStoreRow).where(VectorStoreRow.user_id == user_id)
        key = (VectorStoreRow.created_at, VectorStoreRow.id)
        found = await page_of(
            self._connection, Listing(query, key, VectorStoreRow.id, _store_of), page
        )
        return Page(await self._filled(found.items), found.has_more)

    async def _filled(self, stores: Sequence[VectorStore]) -> Sequence[VectorStore]:
        rows = await self._driver.fetch(
            "SELECT * FROM vector_store_files WHERE store_id = ANY($1::text[])"
            " ORDER BY created_at, file_id",
            [store.id for store in stores],
        )
        files = [_file_of(row) for row in rows]
        return [
            replace(store, files=[file for file in files if file.store_id == store.id])
            for store in stores
        ]

    async def change(self, store_id: str, *, name: str, metadata: JsonObject) -> None:
        """Name one anew, and replace its metadata."""
        await self._driver.execute(
            "UPDATE vector_stores SET name = $2, meta = $3::jsonb WHERE id = $1",
            store_id,
            name,
            json.dumps(metadata),
        )

    async def remove(self, store_id: str) -> None:
        """Delete one here, and retire its entry."""
        for statement in _REMOVE:
            await self._driver.execute(statement, store_id)

    async def put(
        self,
        store_id: str,
        file_ids: Sequence[str],
        *,
        chunking: JsonObject,
        batch_id: str | None = None,
    ) -> None:
        """Note that files are in a store, those that were already anew."""
        await self._driver.execute(_PUT, store_id, list(file_ids), batch_id, json.dumps(chunking))

    async def take_out(self, store_id: str, file_id: str) -> None:
        """Note that a file is not in a store any more."""
        await self._driver.execute(
            "DELETE FROM vector_store_files WHERE store_id = $1 AND file_id = $2",
            store_id,
            file_id,
        )

    async def told(self, store_id: str, found: Mapping[str, Taken]) -> None:
        """Note what the upstream tells of files, by their upstream ids."""
        rows = [
            {
                "upstream_id": upstream_id,
                "status": taken.status,
                "usage_bytes": taken.usage_bytes,
                "error": taken.error,
            }
            for upstream_id, taken in found.items()
        ]
        await self._driver.execute(_TOLD, store_id, json.dumps(rows))

    async def list_files(
        self, store_id: str, page: PageQuery, *, status: str | None, batch_id: str | None
    ) -> Page[StoreFile]:
        """Return a store's files by age."""
        query = select(StoreFileRow).where(StoreFileRow.store_id == store_id)
        if status is not None:
            query = query.where(StoreFileRow.status == status)
        if batch_id is not None:
            query = query.where(StoreFileRow.batch_id == batch_id)
        key = (StoreFileRow.created_at, StoreFileRow.file_id)
        listing = Listing(query, key, StoreFileRow.file_id, _file_of)
        return await page_of(self._connection, listing, page)

    async def upstream_id(self, store_id: str) -> str | None:
        """Return what the upstream calls a store."""
        found: str | None = await self._driver.fetchval(_UPSTREAM_ID, store_id)
        return found

    async def owned(self, user_id: str, ids: Collection[str]) -> Mapping[str, str]:
        """Return what the upstream calls files and stores of a user, by our ids."""
        rows = await self._driver.fetch(_OWNED, user_id, list(ids))
        return {row["name"]: row["upstream_id"] for row in rows}

    async def resources(self, ids: Collection[str]) -> Resources:
        """Return what files and stores are called, and the files in those stores."""
        rows = await self._driver.fetch(_RESOURCES, list(ids))
        return Resources(
            {row["name"]: row["upstream_id"] for row in rows},
            {row["upstream_id"]: row["name"] for row in rows if row["kind"] == "file"},
        )


def _store_of(row: AnyRow) -> VectorStore:
    meta = row["meta"]
    return VectorStore(
        id=row["id"],
        user_id=row["user_id"],
        name=row["name"],
        metadata=json.loads(meta) if isinstance(meta, str) else meta,
        created_at=row["created_at"],
    )


def _file_of(row: AnyRow) -> StoreFile:
    error, chunking = row["error"], row["chunking"]
    return StoreFile(
        store_id=row["store_id"],
        file_id=row["file_id"],
        status=FileStatus(row["status"]),
        usage_bytes=row["usage_bytes"],
        error=json.loads(error) if isinstance(error, str) else error,
        chunking=json.loads(chunking) if isinstance(chunking, str) else chunking,
        batch_id=row["batch_id"],
        created_at=row["created_at"],
    )
