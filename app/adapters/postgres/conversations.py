"""Sessions, their transcript and their runs, as clients and the tutor read them.

Rows of messages and runs are written by `log.py` alone, but for their metadata, which is the
client's own note and changes nothing that the log tells.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.clock import DatabaseClock
from app.adapters.postgres.driver import Driver
from app.adapters.postgres.files import PostgresFiles
from app.adapters.postgres.rows import (
    AnySelect,
    Listing,
    message_of,
    page_of,
    run_of,
    session_of,
    step_of,
)
from app.adapters.postgres.tables import AnswerRow, EventRow, MessageRow, RunRow, SessionRow
from app.domain import ids
from app.domain.errors import NotFoundError
from app.domain.models import (
    JsonObject,
    Message,
    MessageStatus,
    Part,
    PartKind,
    Role,
    Run,
    SessionStatus,
    TutoringSession,
)
from app.domain.steps import RunStep
from app.ports import Admission, Page, PageQuery, SessionChange

_OWN_SESSION = """
SELECT id, user_id, assistant_id, title, status, meta, active_run_id, last_seq, created_at,
    updated_at
FROM sessions WHERE id = $1 AND user_id = $2 AND deleted_at IS NULL
"""

# With its user: posts of one user in many sessions wait here, so that each counts those before it.
_LOCK_OWN_SESSION = """
SELECT s.id, s.user_id, s.assistant_id, s.title, s.status, s.meta, s.active_run_id, s.last_seq,
    s.created_at, s.updated_at, clock_timestamp() AS at
FROM sessions s JOIN users u ON u.id = s.user_id
WHERE s.id = $1 AND s.user_id = $2 AND s.deleted_at IS NULL
FOR UPDATE OF s FOR NO KEY UPDATE OF u
"""

_OWN_RUN = """
SELECT r.* FROM runs r JOIN sessions s ON s.id = r.session_id
WHERE r.id = $1 AND r.session_id = $2 AND s.user_id = $3 AND s.deleted_at IS NULL
"""

_ADMISSION = """
SELECT
    (SELECT count(*) FROM runs WHERE session_id = $1 AND status = 'queued'),
    (SELECT id FROM runs WHERE session_id = $1 AND status = 'queued' ORDER BY seq LIMIT 1),
    (SELECT count(*) FROM runs r JOIN sessions s ON s.id = r.session_id
     WHERE r.user_id = $2 AND r.status = 'queued' AND s.deleted_at IS NULL),
    a.version, v.config ->> 'model'
FROM assistants a JOIN assistant_versions v ON v.assistant_id = a.id AND v.version = a.version
WHERE a.id = $3
"""

# Bounded by the limit, however long the queue is: it is asked for when there is most to do.
_WAITING = """
SELECT count(*) FROM (
    SELECT FROM runs r JOIN sessions s ON s.id = r.session_id
    WHERE r.status = 'queued' AND s.deleted_at IS NULL
    LIMIT $1
) w
"""

# With the fence, in the same round trip: whoever lost the run must not ask the upstream either.
_TURNS = """
SELECT m.* FROM messages m JOIN sessions s ON s.id = m.session_id
WHERE m.session_id = $1 AND m.turn > $2 AND m.turn <= $3 AND m.status <> 'in_progress'
    AND s.active_run_id = $4 AND s.fence = $5
ORDER BY m.turn, m.seq
"""

_ERASE = """
WITH gone AS (
    DELETE FROM events
    WHERE session_id = $1 AND seq >= $3 AND type LIKE 'message.%'
        AND coalesce(data::jsonb ->> 'message_id', data::jsonb #>> '{message,id}') = $2
    RETURNING seq
)
UPDATE sessions SET pruned_seq = greatest(pruned_seq, (SELECT max(seq) FROM gone))
WHERE id = $1
"""

_STEPS = "SELECT * FROM run_steps WHERE run_id = $1 AND session_id = $2 ORDER BY seq"

_ERASE_SAID = "UPDATE run_steps SET said = '[]' WHERE session_id = $1 AND run_id = $2"

_ERASE_ANSWERS = "DELETE FROM answers WHERE session_id = $1 AND position($2 IN body) > 0"


class PostgresSessions:
    """Tutoring sessions; every look-up is by owner."""

    def __init__(self, connection: AsyncConnection, driver: Driver, clock: DatabaseClock) -> None:
        self._connection = connection
        self._driver = driver
        self._clock = clock
        self._files = PostgresFiles(connection, driver)

    async def add(
        self,
        user_id: str,
        assistant_id: str,
        title: str | None,
        metadata: JsonObject,
        *,
        created_at: datetime | None = None,
    ) -> TutoringSession:
        """Open a session; one that was opened elsewhere, long ago, keeps its age.

        Raises:
            NotFoundError: The assistant was deleted a moment ago.
        """
        age = {} if created_at is None else {"created_at": created_at}
        opened = (
            insert(SessionRow)
            .values(
                id=ids.new_id(ids.SESSION),
                user_id=user_id,
                assistant_id=assistant_id,
                title=title,
                status=SessionStatus.OPEN,
                meta=metadata,
                **age,
            )
            .returning(SessionRow)
        )
        try:
            result = await self._connection.execute(opened)
        except IntegrityError:
            raise NotFoundError("There is no such assistant.") from None
        return session_of(result.mappings().one())

    async def get(
        self, user_id: str, session_id: str, *, for_update: bool = False
    ) -> TutoringSession | None:
        """Return the user's session; with `for_update`, its row is locked."""
        statement = _LOCK_OWN_SESSION if for_update else _OWN_SESSION
        row = await self._driver.fetchrow(statement, session_id, user_id)
        if row is not None and for_update:
            # What is appended now must not seem older than what another has just written here.
            self._clock.observe(row["at"])
        return None if row is None else session_of(row)

    async def list(self, user_id: str, page: PageQuery) -> Page[TutoringSession]:
        """Return the user's sessions by age."""
        listing = Listing(
            _own_sessions(user_id),
            (SessionRow.created_at, SessionRow.id),
            SessionRow.id,
            session_of,
        )
        return await page_of(self._connection, listing, page)

    async def change(self, session_id: str, change: SessionChange) -> TutoringSession:
        """Apply a client's change."""
        values: dict[str, Any] = {"updated_at": func.clock_timestamp()}
        if change.title is not None or change.clear_title:
            values["title"] = change.title
        if change.metadata is not None:
            values["meta"] = change.metadata
        if change.status is not None:
            values["status"] = change.status
        result = await self._connection.execute(
            update(SessionRow)
            .where(SessionRow.id == session_id)
            .values(values)
            .returning(SessionRow)
        )
        return session_of(result.mappings().one())

    async def hide(self, session_id: str) -> None:
        """Delete it for its user at once and fence its run; rows go when it is purged."""
        await self._connection.execute(
            update(SessionRow)
            .where(SessionRow.id == session_id)
            .values(
                deleted_at=func.now(),
                fence=SessionRow.fence + 1,
                title=None,
                meta={},
                updated_at=func.now(),
            )
        )
        await self._connection.execute(delete(AnswerRow).where(AnswerRow.session_id == session_id))
        await self._files.release(session_id)


def _own_sessions(user_id: str) -> AnySelect:
    return select(SessionRow).where(SessionRow.user_id == user_id, SessionRow.deleted_at.is_(None))


class PostgresMessages:
    """The transcript."""

    def __init__(self, connection: AsyncConnection, driver: Driver) -> None:
        self._connection = connection
        self._driver = driver

    async def get(self, session_id: str, message_id: str) -> Message | None:
        """Return one, with the text that it has so far."""
        query = select(MessageRow).where(
            MessageRow.session_id == session_id, MessageRow.id == message_id
        )
        row = (await self._connection.execute(query)).mappings().first()
        return None if row is None else await self._with_text(message_of(row))

    async def list(
        self, session_id: str, page: PageQuery, *, run_id: str | None = None
    ) -> Page[Message]:
        """Return those of a session, with the text that they have so far."""
        query = select(MessageRow).where(MessageRow.session_id == session_id)
        if run_id is not None:
            query = query.where(MessageRow.run_id == run_id)
        listing = Listing(query, (MessageRow.seq,), MessageRow.id, message_of)
        found = await page_of(self._connection, listing, page)
        return Page([await self._with_text(item) for item in found.items], found.has_more)

    async def _with_text(self, message: Message) -> Message:
        """Add up the deltas of a message that is still being written."""
        if message.status is not MessageStatus.IN_PROGRESS:
            return message
        query = (
            select(EventRow.type, EventRow.data)
            .where(
                EventRow.session_id == message.session_id,
                EventRow.seq > message.seq,
                EventRow.run_id == message.run_id,
                EventRow.type.in_(("message.delta", "message.reset")),
            )
            .order_by(EventRow.seq)
        )
        texts: dict[int, str] = {}
        for type_, data in await self._connection.execute(query):
            event = json.loads(data)
            if type_ == "message.reset":
                texts = {k: text for k, text in texts.items() if k < event["from_part"]}
            else:
                texts[event["part"]] = texts.get(event["part"], "") + event["text"]
        # Parts keep their numbers, also behind one that is empty.
        places = range(max(texts, default=-1) + 1)
        content = tuple(Part(texts.get(place, ""), PartKind.TEXT) for place in places)
        return replace(message, content=content)

    async def turns(self, run: Run, fence: int, *, after: int) -> Sequence[Message]:
        """Return ended messages after a turn, up to the run's, as the tutor reads them.

        None when the fence is another: the run was lost, and its new holder asks for it.
        A question whose run still waits belongs to a later turn; one whose run ended without
        an answer is still something that the student said.
        """
        rows = await self._driver.fetch(_TURNS, run.session_id, after, run.turn, run.id, fence)
        return [message_of(row) for row in rows]

    async def last_turn(self, session_id: str) -> Message | None:
        """Return the newest message of the user, if there is one."""
        query = (
            select(MessageRow)
            .where(MessageRow.session_id == session_id, MessageRow.role == Role.USER)
            .order_by(MessageRow.seq.desc())
            .limit(1)
        )
        row = (await self._connection.execute(query)).mappings().first()
        return None if row is None else message_of(row)

    async def annotate(self, session_id: str, message_id: str, metadata: JsonObject) -> None:
        """Replace one's metadata."""
        await self._connection.execute(
            update(MessageRow)
            .where(MessageRow.session_id == session_id, MessageRow.id == message_id)
            .values(meta=metadata)
        )

    async def remove(self, message: Message) -> None:
        """Delete one, with its events and the answers that tell of it: cursors before it reset."""
        named = (message.session_id, message.id)
        await self._connection.execute(delete(MessageRow).where(MessageRow.id == message.id))
        await self._driver.execute(_ERASE, *named, message.seq)
        await self._driver.execute(_ERASE_ANSWERS, *named)
        await self._driver.execute(_ERASE_SAID, message.session_id, message.run_id)


class PostgresRuns:
    """Runs, as clients read them."""

    def __init__(self, connection: AsyncConnection, driver: Driver) -> None:
        self._connection = connection
        self._driver = driver

    async def get(self, user_id: str, session_id: str, run_id: str) -> Run | None:
        """Return one in one query, ownership included."""
        row = await self._driver.fetchrow(_OWN_RUN, run_id, session_id, user_id)
        return None if row is None else run_of(row)

    async def list(self, session_id: str, page: PageQuery) -> Page[Run]:
        """Return those of a session."""
        query = select(RunRow).where(RunRow.session_id == session_id)
        listing = Listing(query, (RunRow.seq,), RunRow.id, run_of)
        return await page_of(self._connection, listing, page)

    async def of(self, session_id: str, run_ids: Collection[str]) -> Mapping[str, Run]:
        """Return some of a session's by id."""
        query = select(RunRow).where(RunRow.session_id == session_id, RunRow.id.in_(run_ids))
        rows = (await self._connection.execute(query)).mappings()
        return {row["id"]: run_of(row) for row in rows}

    async def steps(self, run: Run) -> Sequence[RunStep]:
        """Return what a run did besides speaking, in order."""
        rows = await self._driver.fetch(_STEPS, run.id, run.session_id)
        return [step_of(row) for row in rows]

    async def annotate(self, session_id: str, run_id: str, metadata: JsonObject) -> None:
        """Replace one's metadata."""
        await self._connection.execute(
            update(RunRow)
            .where(RunRow.session_id == session_id, RunRow.id == run_id)
            .values(meta=metadata)
        )

    async def admission(self, session: TutoringSession) -> Admission:
        """Return what decides whether, and how, the session gets another run."""
        row = await self._driver.fetchrow(
            _ADMISSION, session.id, session.user_id, session.assistant_id
        )
        return Admission(*row) if row else Admission(0, None, 0, 0, "")

    async def waiting(self, *, limit: int) -> int:
        """Count the runs that wait in the queue, of all users, up to a limit."""
        return await self._driver.fetchval(_WAITING, limit) or 0
