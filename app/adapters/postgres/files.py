"""Users' files, and the sessions that use them."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.driver import Driver
from app.adapters.postgres.kept_tables import FileRow
from app.adapters.postgres.rows import AnyRow, Listing, page_of
from app.domain.files import StoredFile
from app.ports import Attached, Held, Page, PageQuery

_LOCK_USER = "SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE"

_HELD = """
SELECT (SELECT count(*) FROM files WHERE user_id = $1)
    + (SELECT count(*) FROM upstream_objects
       WHERE user_id = $1 AND kind = 'file' AND upstream_id IS NULL
           AND retired_at IS NULL AND deleted_at IS NULL),
    (SELECT coalesce(sum(size), 0)::bigint FROM files WHERE user_id = $1)
"""

_ADD = """
WITH entry AS (
    UPDATE upstream_objects SET upstream_id = $7
    WHERE kind = 'file' AND name = $1 AND retired_at IS NULL
    RETURNING name
)
INSERT INTO files (id, user_id, filename, size, media_type, purpose)
SELECT $1, $2, $3, $4, $5, $6 FROM entry
RETURNING *
"""

_UPSTREAM_ID = """
SELECT upstream_id FROM upstream_objects WHERE kind = 'file' AND name = $1
"""

_MINE = """
SELECT * FROM files WHERE user_id = $1 AND id = ANY($2::text[]) ORDER BY id FOR KEY SHARE
"""

_USE = """
INSERT INTO file_uses (file_id, session_id) SELECT unnest($1::text[]), $2
ON CONFLICT DO NOTHING
"""

_ATTACHED = """
SELECT f.id, o.upstream_id, f.media_type LIKE 'image/%' AS is_image
FROM files f JOIN sessions s ON s.user_id = f.user_id
JOIN upstream_objects o ON o.kind = 'file' AND o.name = f.id
WHERE s.id = $1 AND f.id = ANY($2::text[]) AND o.upstream_id IS NOT NULL
    AND o.retired_at IS NULL
"""

_USERS_OF = """
SELECT s.id FROM file_uses u JOIN sessions s ON s.id = u.session_id
WHERE u.file_id = $1 AND s.deleted_at IS NULL ORDER BY s.id
"""

_RETIRED = """
UPDATE upstream_objects SET retired_at = now(), retry_at = now()
WHERE kind = 'file' AND name = ANY($1::text[]) AND retired_at IS NULL
"""

# A first answer tells of the file by its name.
_FORGET_ANSWERS = """
DELETE FROM answers
WHERE user_id = (SELECT user_id FROM files WHERE id = $1) AND position($1 IN body) > 0
    AND session_id IS NULL
"""

# Those that a tutor works with besides stay.
_LAST_USED = """
SELECT u.file_id FROM file_uses u
WHERE u.session_id = $1 AND NOT EXISTS (
    SELECT FROM file_uses o JOIN sessions s ON s.id = o.session_id
    WHERE o.file_id = u.file_id AND o.session_id <> $1 AND s.deleted_at IS NULL)
    AND NOT EXISTS (SELECT FROM vector_store_files v WHERE v.file_id = u.file_id)
    AND NOT EXISTS (
        SELECT FROM assistant_versions a
        WHERE a.config -> 'tool_resources' -> 'code_interpreter' -> 'file_ids' ? u.file_id)
"""


class PostgresFiles:
    """Users' files, inside one transaction."""

    def __init__(self, connection: AsyncConnection, driver: Driver) -> None:
        self._connection = connection
        self._driver = driver

    async def held(self, user_id: str, *, lock: bool = False) -> Held:
        """Return what a user keeps; with `lock`, nobody else adds to it meanwhile."""
        if lock:
            await self._driver.execute(_LOCK_USER, user_id)
        row = await self._driver.fetchrow(_HELD, user_id)
        return Held(*row) if row else Held(0, 0)

    async def add(self, file: StoredFile, upstream_id: str) -> StoredFile | None:
        """Keep one whose entry the ledger has; None if that entry was retired meanwhile."""
        row = await self._driver.fetchrow(
            _ADD,
            file.id,
            file.user_id,
            file.filename,
            file.size,
            file.media_type,
            file.purpose,
            upstream_id,
        )
        return None if row is None else _file_of(row)

    async def get(self, user_id: str, file_id: str) -> StoredFile | None:
        """Return the user's file."""
        row = await self._driver.fetchrow(
            "SELECT * FROM files WHERE id = $1 AND user_id = $2", file_id, user_id
        )
        return None if row is None else _file_of(row)

    async def upstream_id(self, file_id: str) -> str | None:
        """Return what the upstream calls a file."""
        found: str | None = await self._driver.fetchval(_UPSTREAM_ID, file_id)
        return found

    async def list(
        self, user_id: str, page: PageQuery, *, purpose: str | None = None
    ) -> Page[StoredFile]:
        """Return the user's files by age; without a purpose of its own, one has its kind's."""
        query = select(FileRow).where(FileRow.user_id == user_id)
        if purpose is not None:
            is_image = FileRow.media_type.startswith("image/")
            usual = {"vision": is_image, "user_data": ~is_image}.get(purpose)
            is_usual = FileRow.purpose.is_(None) & usual if usual is not None else None
            named = FileRow.purpose == purpose
            query = query.where(named if is_usual is None else or_(named, is_usual))
        listing = Listing(query, (FileRow.created_at, FileRow.id), FileRow.id, _file_of)
        return await page_of(self._connection, listing, page)

    async def use(
        self, user_id: str, session_id: str, file_ids: Collection[str]
    ) -> Mapping[str, StoredFile]:
        """Note that they are used in a session; return those that the user has."""
        rows = await self._driver.fetch(_MINE, user_id, list(file_ids))
        found = {row["id"]: _file_of(row) for row in rows}
        await self._driver.execute(_USE, list(found), session_id)
        return found

    async def attached(self, session_id: str, file_ids: Collection[str]) -> Mapping[str, Attached]:
        """Return what the upstream calls files of a session's owner; the deleted are left out."""
        rows = await self._driver.fetch(_ATTACHED, session_id, list(file_ids))
        return {row["id"]: Attached(row["upstream_id"], row["is_image"]) for row in rows}

    async def users_of(self, file_id: str) -> Sequence[str]:
        """Return the ids of living sessions that use a file, in order."""
        return [row["id"] for row in await self._driver.fetch(_USERS_OF, file_id)]

    async def remove(self, file_id: str) -> None:
        """Delete one here, and retire its entry."""
        await self._driver.execute(_FORGET_ANSWERS, file_id)
        await self._driver.execute("DELETE FROM files WHERE id = $1", file_id)
        await self._driver.execute(_RETIRED, [file_id])

    async def release(self, session_id: str) -> None:
        """Remove the files that a session which is being deleted was the last to use."""
        for row in await self._driver.fetch(_LAST_USED, session_id):
            await self.remove(row["file_id"])


def _file_of(row: AnyRow) -> StoredFile:
    return StoredFile(
        id=row["id"],
        user_id=row["user_id"],
        filename=row["filename"],
        size=row["size"],
        media_type=row["media_type"],
        purpose=row["purpose"],
        created_at=row["created_at"],
    )
