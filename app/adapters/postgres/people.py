"""Users, the tutors that they may talk to, and tickets for their browsers."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, exists, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.driver import Driver
from app.adapters.postgres.rows import (
    AnySelect,
    Listing,
    assistant_of,
    config_of,
    config_values,
    page_of,
)
from app.adapters.postgres.tables import (
    AssistantRow,
    AssistantVersionRow,
    RunRow,
    SessionRow,
    StreamTicketRow,
    UserRow,
)
from app.domain import ids
from app.domain.models import Assistant, AssistantConfig, JsonObject, Principal, User
from app.ports import AssistantLock, AssistantVersion, Page, PageQuery, TicketGrant, VersionKey

TICKET_FIRST_USE = timedelta(seconds=60)
"""Time for a browser to connect after it was given a ticket."""


class PostgresUsers:
    """Who has been here."""

    def __init__(self, connection: AsyncConnection, driver: Driver) -> None:
        self._connection = connection
        self._driver = driver

    async def resolve(self, principal: Principal) -> str:
        """Return the id of the principal's user, made at first sight."""
        known = select(UserRow.id).where(
            UserRow.deleted_at.is_(None),
            UserRow.subject == principal.subject,
            UserRow.tenant.is_not_distinct_from(principal.tenant),
        )
        found = (await self._connection.execute(known)).scalar()
        if found is not None:
            return found
        await self._connection.execute(
            postgresql.insert(UserRow)
            .values(id=ids.new_id(ids.USER), tenant=principal.tenant, subject=principal.subject)
            .on_conflict_do_nothing()
        )
        return (await self._connection.execute(known)).scalar_one()

    async def find(self, subject: str, tenant: str | None) -> str | None:
        """Return the id of a user who has been here, and was not deleted."""
        found: str | None = await self._driver.fetchval(_FIND, subject, tenant)
        return found

    async def erase(self, user_id: str) -> Sequence[str]:
        """Forget who a user was, and hide all that is theirs; return their sessions."""
        # Sessions come first, by id, as everywhere.
        rows = await self._driver.fetch(_HIDE_SESSIONS, user_id)
        for statement in _ERASE:
            await self._driver.execute(statement, user_id)
        return [row["id"] for row in rows]

    async def queued_runs(self, user_id: str) -> int:
        """Count the user's runs that wait in the queue."""
        return await self._driver.fetchval(_QUEUED_RUNS, user_id) or 0


_FIND = """
SELECT id FROM users
WHERE subject = $1 AND tenant IS NOT DISTINCT FROM $2 AND deleted_at IS NULL
"""

_HIDE_SESSIONS = """
WITH own AS (
    SELECT id FROM sessions WHERE user_id = $1 AND deleted_at IS NULL ORDER BY id FOR UPDATE
)
UPDATE sessions
SET deleted_at = now(), fence = fence + 1, title = NULL, meta = '{}', updated_at = now()
WHERE id IN (SELECT id FROM own) RETURNING id
"""

_ERASE = (
    "DELETE FROM answers WHERE user_id = $1",
    "DELETE FROM stream_tickets WHERE user_id = $1",
    "DELETE FROM vector_stores WHERE user_id = $1",
    "DELETE FROM files WHERE user_id = $1",
    """
    UPDATE upstream_objects SET retired_at = now(), retry_at = now()
    WHERE user_id = $1 AND retired_at IS NULL AND deleted_at IS NULL
    """,
    "UPDATE assistants SET archived_at = coalesce(archived_at, now()) WHERE owner_id = $1",
    # Whoever comes with the same token again is somebody new.
    "UPDATE users SET subject = id, deleted_at = now() WHERE id = $1",
)

# A deleted session's runs wait for nothing but their purge.
_QUEUED_RUNS = """
SELECT count(*) FROM runs r JOIN sessions s ON s.id = r.session_id
WHERE r.user_id = $1 AND r.status = 'queued' AND s.deleted_at IS NULL
"""


def _assistants(user: User) -> AnySelect:
    """Assistants that a user may use, at their present version."""
    is_own = AssistantRow.owner_id == user.id
    is_shared = AssistantRow.owner_id.is_(None) & AssistantRow.tenant.is_not_distinct_from(
        user.principal.tenant
    )
    return _current().where(
        AssistantRow.archived_at.is_(None), or_(is_own, is_shared, AssistantRow.is_default)
    )


def _current() -> AnySelect:
    """Assistants at their present version."""
    return select(AssistantRow, AssistantVersionRow.config).join(
        AssistantVersionRow,
        (AssistantVersionRow.assistant_id == AssistantRow.id)
        & (AssistantVersionRow.version == AssistantRow.version),
    )


class PostgresAssistants:
    """The tutors of a tenant and of single users, and the default one of all."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(
        self, user: User, assistant_id: str, *, lock: AssistantLock | None = None
    ) -> Assistant | None:
        """Return one that the user may use."""
        query = _assistants(user).where(AssistantRow.id == assistant_id)
        if lock is not None:
            # Locked first: one statement would join the new row to the old version, or to none.
            row_alone = select(AssistantRow.id).where(AssistantRow.id == assistant_id)
            is_shared = lock == "use"
            await self._connection.execute(
                row_alone.with_for_update(read=is_shared, key_share=is_shared)
            )
        row = (await self._connection.execute(query)).mappings().first()
        return None if row is None else assistant_of(row)

    async def default(self) -> Assistant:
        """Return the one that sessions get which name none."""
        query = _current().where(AssistantRow.is_default)
        return assistant_of((await self._connection.execute(query)).mappings().one())

    async def config(self, assistant_id: str, version: int) -> AssistantConfig:
        """Return what a version of an assistant, archived or not, was."""
        query = select(AssistantVersionRow.config).where(
            AssistantVersionRow.assistant_id == assistant_id,
            AssistantVersionRow.version == version,
        )
        return config_of((await self._connection.execute(query)).scalar_one())

    async def versions(
        self, keys: Collection[VersionKey]
    ) -> Mapping[VersionKey, AssistantVersion]:
        """Return what versions were; each must exist."""
        query = (
            select(
                AssistantVersionRow.assistant_id,
                AssistantVersionRow.version,
                AssistantVersionRow.config,
                AssistantRow.owner_id,
            )
            .join(AssistantRow, AssistantRow.id == AssistantVersionRow.assistant_id)
            .where(tuple_(AssistantVersionRow.assistant_id, AssistantVersionRow.version).in_(keys))
        )
        return {
            (assistant_id, version): AssistantVersion(config_of(config), owner_id)
            for assistant_id, version, config, owner_id in await self._connection.execute(query)
        }

    async def vary(self, assistant: Assistant, config: AssistantConfig) -> int:
        """Keep a configuration for single runs, unlisted; return its version.

        Listed versions count up from 1. The number of an unlisted one is negative, and taken
        from what it holds: runs that ask for the same share it, and nobody waits for a counter.
        """
        values = config_values(config)
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
        version = -1 - (int.from_bytes(digest[:8]) >> 1)
        await self._connection.execute(
            postgresql.insert(AssistantVersionRow)
            .values(assistant_id=assistant.id, version=version, config=values)
            .on_conflict_do_nothing()
        )
        return version

    async def list(self, user: User, page: PageQuery) -> Page[Assistant]:
        """Return those that the user may use."""
        listing = Listing(
            _assistants(user),
            (AssistantRow.created_at, AssistantRow.id),
            AssistantRow.id,
            assistant_of,
        )
        return await page_of(self._connection, listing, page)

    async def add(
        self, user: User, config: AssistantConfig, metadata: JsonObject, *, is_own: bool
    ) -> Assistant:
        """Make a new one: the user's own, or the tenant's."""
        assistant_id = ids.new_id(ids.ASSISTANT)
        await self._connection.execute(
            insert(AssistantRow).values(
                id=assistant_id,
                tenant=user.principal.tenant,
                owner_id=user.id if is_own else None,
                version=1,
                meta=metadata,
            )
        )
        return await self._write_version(assistant_id, 1, config)

    async def update(
        self, assistant: Assistant, config: AssistantConfig, metadata: JsonObject
    ) -> Assistant:
        """Write its next version."""
        version = assistant.version + 1
        await self._connection.execute(
            update(AssistantRow)
            .where(AssistantRow.id == assistant.id)
            .values(version=version, meta=metadata, updated_at=func.now())
        )
        return await self._write_version(assistant.id, version, config)

    async def _write_version(
        self, assistant_id: str, version: int, config: AssistantConfig
    ) -> Assistant:
        await self._connection.execute(
            insert(AssistantVersionRow).values(
                assistant_id=assistant_id, version=version, config=config_values(config)
            )
        )
        query = _current().where(AssistantRow.id == assistant_id)
        return assistant_of((await self._connection.execute(query)).mappings().one())

    async def remove(self, assistant: Assistant) -> None:
        """Archive it; delete it if nothing ever used it."""
        used = or_(
            exists().where(SessionRow.assistant_id == assistant.id),
            exists().where(RunRow.assistant_id == assistant.id),
        )
        archived = (
            update(AssistantRow)
            .where(AssistantRow.id == assistant.id, used)
            .values(archived_at=func.now())
        )
        if (await self._connection.execute(archived)).rowcount == 0:
            await self._connection.execute(
                delete(AssistantRow).where(AssistantRow.id == assistant.id)
            )


class PostgresTickets:
    """Stream tickets; only their digests are kept."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(
        self, digest: bytes, user_id: str, session_id: str, *, expires_at: float
    ) -> datetime:
        """Store one; return until when its first use is possible."""
        end = datetime.fromtimestamp(expires_at, UTC)
        await self._connection.execute(
            delete(StreamTicketRow).where(StreamTicketRow.expires_at < func.now())
        )
        result = await self._connection.execute(
            insert(StreamTicketRow)
            .values(
                digest=digest,
                user_id=user_id,
                session_id=session_id,
                use_by=func.least(func.now() + TICKET_FIRST_USE, end),
                expires_at=end,
            )
            .returning(StreamTicketRow.use_by)
        )
        return result.scalar_one()

    async def redeem(self, digest: bytes) -> TicketGrant | None:
        """Use one: None when it is unknown, was not used in time, or is past its token."""
        result = await self._connection.execute(
            update(StreamTicketRow)
            .where(
                StreamTicketRow.digest == digest,
                StreamTicketRow.expires_at > func.now(),
                or_(StreamTicketRow.used_at.is_not(None), StreamTicketRow.use_by > func.now()),
            )
            .values(used_at=func.coalesce(StreamTicketRow.used_at, func.now()))
            .returning(
                StreamTicketRow.user_id, StreamTicketRow.session_id, StreamTicketRow.expires_at
            )
        )
        row = result.first()
        return None if row is None else TicketGrant(*row)
