"""The append-only log of every session, and the only writer of messages' and runs' rows.

`append` locks the session rows by id, tests each fence on the very row that it locked (a fence
tested through a join does not fence), stamps the drafts, and writes events, rows and places in
one transaction.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from app.adapters.postgres.driver import Driver
from app.adapters.postgres.rows import AnyRow, message_values, run_values
from app.domain.events import Event, MessageChanged, RunChanged, dump
from app.domain.models import Role, Run
from app.ports import Append, Cursor, LogState

_LOCK = """
SELECT id, user_id, last_seq, active_run_id, fence, clock_timestamp() AS at
FROM sessions WHERE id = ANY($1::text[]) AND deleted_at IS NULL
ORDER BY id FOR UPDATE
"""

_PLACED = """
WITH placed AS (
    UPDATE sessions s
    SET last_seq = p.last_seq, active_run_id = p.active_run_id, fence = p.fence,
        updated_at = p.at
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::timestamptz[])
        AS p (id, last_seq, active_run_id, fence, at)
    WHERE s.id = p.id
)
"""

_EVENTS = """
INSERT INTO events (session_id, seq, type, run_id, data)
SELECT * FROM unnest($6::text[], $7::bigint[], $8::text[], $9::text[], $10::text[])
"""

# Rows travel as one JSON document: no parameter per column, and no statement per row. New rows
# go with their events: each round trip stands between a question and its first word.
_NEW_ROWS = """
, new_runs AS (
    INSERT INTO runs (id, session_id, user_id, assistant_id, assistant_version, model, status,
        attempts, input_message_id, meta, seq, turn, created_at)
    SELECT id, session_id, user_id, assistant_id, assistant_version, model, status,
        attempts, input_message_id, meta, seq, turn, created_at
    FROM jsonb_populate_recordset(NULL::runs, $11::jsonb)
), new_messages AS (
    INSERT INTO messages (id, session_id, run_id, role, status, content, meta, seq, turn,
        created_at, completed_at)
    SELECT id, session_id, run_id, role, status, content, meta, seq, turn, created_at,
        completed_at
    FROM jsonb_populate_recordset(NULL::messages, $12::jsonb)
), noted AS (
    UPDATE runs r
    SET output_message_id = coalesce(n.message_id, r.output_message_id),
        upstream_response_id = coalesce(n.response_id, r.upstream_response_id)
    FROM unnest($13::text[], $14::text[], $15::text[]) AS n (run_id, message_id, response_id)
    WHERE r.id = n.run_id
)
"""

_WRITE = _PLACED + _EVENTS
_WRITE_WITH_NEW = _PLACED + _NEW_ROWS + _EVENTS

_RETIRE = """
UPDATE upstream_threads SET retired_at = now()
WHERE session_id = ANY($1::text[]) AND retired_at IS NULL
"""

_WAIT = "SELECT FROM sessions WHERE id = $1 FOR SHARE"

_READ = """
SELECT e.session_id, e.seq, e.type, e.run_id, e.data
FROM unnest($1::text[], $2::bigint[]) AS c (session_id, after)
CROSS JOIN LATERAL (
    SELECT * FROM events
    WHERE events.session_id = c.session_id AND events.seq > c.after
    ORDER BY events.seq LIMIT $3
) e
"""

_READ_RUN = """
SELECT session_id, seq, type, run_id, data FROM events
WHERE session_id = $1 AND seq > $2 AND run_id = $3 ORDER BY seq LIMIT $4
"""

_GONE = """
SELECT c.id FROM unnest($1::text[]) AS c (id)
WHERE NOT EXISTS (SELECT FROM sessions s WHERE s.id = c.id AND s.deleted_at IS NULL)
"""

_PRUNE = """
WITH old AS (
    SELECT r.id, r.session_id, r.seq FROM runs r
    WHERE r.ended_at < now() - $1::interval AND NOT r.pruned
    ORDER BY r.ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE runs SET pruned = true WHERE id IN (SELECT id FROM old)
), gone AS (
    DELETE FROM events e USING old
    WHERE e.session_id = old.session_id AND e.seq > old.seq AND e.run_id = old.id
        AND e.type = 'message.delta'
    RETURNING e.session_id, e.seq
), pruned AS (
    UPDATE sessions s SET pruned_seq = greatest(s.pruned_seq, g.seq)
    FROM (SELECT session_id, max(seq) AS seq FROM gone GROUP BY session_id) g
    WHERE s.id = g.session_id
)
SELECT count(*) FROM gone
"""

_CHANGE_MESSAGES = """
UPDATE messages m
SET status = n.status, content = n.content, completed_at = n.completed_at
FROM jsonb_populate_recordset(NULL::messages, $1::jsonb) n WHERE m.id = n.id
"""

_CHANGE_RUNS = """
UPDATE runs r
SET status = n.status, attempts = n.attempts, output_message_id = n.output_message_id,
    tool_calls = n.tool_calls, last_error = n.last_error,
    incomplete_reason = n.incomplete_reason, usage = n.usage, started_at = n.started_at,
    expires_at = n.expires_at, ended_at = n.ended_at
FROM jsonb_populate_recordset(NULL::runs, $1::jsonb) n WHERE r.id = n.id
"""

_MARK_THREADS = """
UPDATE sessions s
SET upstream_thread_id = n.upstream_thread_id, upstream_turn = n.upstream_turn,
    upstream_tail = n.upstream_tail
FROM jsonb_populate_recordset(NULL::sessions, $1::jsonb) n WHERE s.id = n.id
"""


class PostgresEventLog:
    """The log, inside one transaction."""

    def __init__(self, driver: Driver, touched: set[str]) -> None:
        self._driver = driver
        self._touched = touched
        """Sessions that this transaction appended to; their readers are told after it."""

    async def append(self, appends: Sequence[Append]) -> list[Append]:
        """Write to many logs in one go; return those refused by their fence or gone."""
        ids = list({append.session_id for append in appends})
        rows = await self._driver.fetch(_LOCK, ids)
        places = {row["id"]: _Place(row) for row in rows}
        batch = _Batch()
        refused: list[Append] = []
        for append in appends:
            place = places.get(append.session_id)
            if place is None or not place.admits(append):
                refused.append(append)
            else:
                batch.take(append, place)
        moved = [place for place in places.values() if place.moved]
        if moved:
            await self._write(batch, moved)
            self._touched.update(event.session_id for event in batch.events)
        return refused

    async def _write(self, batch: "_Batch", places: "list[_Place]") -> None:
        events, execute = batch.events, self._driver.execute
        new = batch.new_rows()
        await execute(
            _WRITE_WITH_NEW if new else _WRITE,
            [place.session_id for place in places],
            [place.last_seq for place in places],
            [place.active_run_id for place in places],
            [place.fence for place in places],
            [place.at for place in places],
            [event.session_id for event in events],
            [event.seq for event in events],
            [event.type for event in events],
            [event.run_id for event in events],
            [event.data for event in events],
            *new,
        )
        for statement, rows in batch.rows():
            await execute(statement, dump(rows))
        lost = [mark["id"] for mark in batch.marks if mark["upstream_thread_id"] is None]
        if lost:
            await execute(_RETIRE, lost)

    async def is_written(self, append: Append) -> bool:
        """Tell whether an append whose commit was in doubt is in the log.

        Its text holds the database's instant, so that no other event can be taken for it.
        """
        if not append.stamped:
            return False
        last = append.stamped[-1]
        # The doubtful transaction may live on without its client, and its COMMIT come late: it
        # holds this row until its outcome is known, and only the next statement sees that.
        await self._driver.execute(_WAIT, last.session_id)
        found = await self._driver.fetchval(
            "SELECT data FROM events WHERE session_id = $1 AND seq = $2",
            last.session_id,
            last.seq,
        )
        return bool(found == last.data)

    async def read(self, cursors: Sequence[Cursor], *, limit: int) -> list[Event]:
        """Return what follows each cursor, by session and `seq`, at most `limit` each."""
        ids = [cursor.session_id for cursor in cursors]
        afters = [cursor.after for cursor in cursors]
        return [Event(*row) for row in await self._driver.fetch(_READ, ids, afters, limit)]

    async def read_run(self, run: Run, *, after: int, limit: int) -> list[Event]:
        """Return one run's events after `seq`, its question included, in order."""
        start = max(after, min(run.turn, run.seq) - 1)
        rows = await self._driver.fetch(_READ_RUN, run.session_id, start, run.id, limit)
        return [Event(*row) for row in rows]

    async def state(self, session_id: str) -> LogState:
        """Return where the log of a session that exists stands."""
        row = await self._driver.fetchrow(
            "SELECT last_seq, pruned_seq FROM sessions WHERE id = $1", session_id
        )
        return LogState(*row) if row else LogState(0, 0)

    async def gone(self, session_ids: Sequence[str]) -> list[str]:
        """Return which of the sessions were deleted."""
        return [row["id"] for row in await self._driver.fetch(_GONE, list(session_ids))]

    async def now(self) -> datetime:
        """Return the database's instant."""
        instant: datetime = await self._driver.fetchval("SELECT clock_timestamp()")
        return instant

    async def prune(self, *, older_than: timedelta, limit: int) -> int:
        """Delete the deltas of at most `limit` runs that ended that long ago; return how many."""
        return await self._driver.fetchval(_PRUNE, older_than, limit) or 0


class _Place:
    """Where a locked session stands, moved on as drafts are stamped."""

    def __init__(self, row: AnyRow) -> None:
        self.session_id: str = row["id"]
        self.user_id: str = row["user_id"]
        self.last_seq: int = row["last_seq"]
        self.active_run_id: str | None = row["active_run_id"]
        self.fence: int = row["fence"]
        self.at: datetime = row["at"]
        self.moved = False

    def admits(self, append: Append) -> bool:
        if append.fence is None:
            return True
        return self.fence == append.fence and self.active_run_id == append.run_id


class _Batch:
    """Everything that one transaction writes, by statement."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.new_messages: list[dict[str, Any]] = []
        self.new_runs: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.notes: dict[str, tuple[str | None, str | None]] = {}
        """The answer's and the generation's id, by run: a run's row is updated but once."""
        self.marks: list[dict[str, Any]] = []

    def new_rows(self) -> list[Any]:
        """Return the parameters of `_NEW_ROWS`; empty when there is nothing new."""
        if not self.new_runs and not self.new_messages and not self.notes:
            return []
        return [
            dump(self.new_runs),
            dump(self.new_messages),
            list(self.notes),
            [message_id for message_id, _ in self.notes.values()],
            [response_id for _, response_id in self.notes.values()],
        ]

    def rows(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return the statements that have rows, in the order of the locks that they take."""
        ordered = [
            (_CHANGE_RUNS, self.runs),
            (_CHANGE_MESSAGES, self.messages),
            (_MARK_THREADS, self.marks),
        ]
        return [(statement, rows) for statement, rows in ordered if rows]

    def take(self, append: Append, place: _Place) -> None:
        append.stamped.clear()
        place.moved = True
        if append.new_fence is not None:
            place.fence = append.new_fence
        if append.response_id is not None and append.run_id is not None:
            self._note(append.run_id, response_id=append.response_id)
        for draft in append.drafts:
            place.last_seq += 1
            data = draft.stamp(place.session_id, place.last_seq, place.at)
            event = Event(place.session_id, place.last_seq, draft.type, draft.run_id, data)
            append.stamped.append(event)
            self.events.append(event)
            if isinstance(draft, MessageChanged):
                self._take_message(draft)
            elif isinstance(draft, RunChanged):
                self._take_run(draft, place)
        if append.thread is not None:
            mark = append.thread
            self.marks.append(
                {
                    "id": place.session_id,
                    "upstream_thread_id": mark.thread_id,
                    "upstream_turn": mark.turn,
                    "upstream_tail": mark.tail,
                }
            )

    def _note(
        self, run_id: str, *, message_id: str | None = None, response_id: str | None = None
    ) -> None:
        before = self.notes.get(run_id, (None, None))
        self.notes[run_id] = (message_id or before[0], response_id or before[1])

    def _take_message(self, draft: MessageChanged) -> None:
        message = draft.message
        if draft.is_new:
            self.new_messages.append(message_values(message))
            if message.role is Role.ASSISTANT and message.run_id is not None:
                self._note(message.run_id, message_id=message.id)
            return
        self.messages.append(message_values(message))

    def _take_run(self, draft: RunChanged, place: _Place) -> None:
        run = draft.run
        if run.status.is_active:
            place.active_run_id = run.id
        elif place.active_run_id == run.id:
            place.active_run_id = None
        values = run_values(run)
        if draft.is_new:
            self.new_runs.append({**values, "user_id": place.user_id})
        else:
            self.runs.append(values)
