"""The append-only log of every session, and the only writer of messages' and runs' rows.

`append` stamps drafts with their places, and writes events, rows and the sessions' new ends in one
statement. Where a writer knows the end of its log, that statement is all: it tests end and fence
on the very rows that it updates. Where it does not, the rows are locked and read first.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from app.adapters.postgres.batch import Batch, Place, is_plain, stamp_delta
from app.adapters.postgres.clock import DatabaseClock
from app.adapters.postgres.driver import Driver
from app.adapters.postgres.rows import AnyRow
from app.domain.events import Event
from app.domain.models import Run
from app.ports import Append, Cursor, LogState

_LOCK = """
SELECT id, last_seq, active_run_id, fence, clock_timestamp() AS at
FROM sessions WHERE id = ANY($1::text[]) AND deleted_at IS NULL
ORDER BY id FOR UPDATE
"""

# Nearly all that is written: one delta each for many runs. One statement and no transaction
# around it: it costs half of what the general one does, in the worker and here.
_DELTAS = """
WITH placed AS (
    UPDATE sessions s SET last_seq = g.seq, updated_at = $6
    FROM unnest(string_to_array($1, E'\\n'), string_to_array($2, E'\\n')::bigint[],
        string_to_array($3, E'\\n'), string_to_array($4, E'\\n')::bigint[],
        string_to_array($5, E'\\n')) AS g (id, seq, run_id, fence, data)
    WHERE s.id = g.id AND s.last_seq = g.seq - 1 AND s.deleted_at IS NULL
        AND s.fence = g.fence AND s.active_run_id = g.run_id
    RETURNING s.id, g.seq, g.run_id, g.data
), logged AS (
    INSERT INTO events (session_id, seq, type, run_id, data)
    SELECT id, seq, 'message.delta', run_id, data FROM placed
)
SELECT clock_timestamp() AS now,
    CASE WHEN count(*) < $7 THEN coalesce(array_agg(id), '{}') END AS moved
FROM placed
"""

# The fence is tested on the very row that is locked: through a join it would not fence. The ids
# stand apart, too: a plan that was made while there were few sessions would read all of them.
_WRITE = """
WITH placed AS (
    UPDATE sessions s
    SET last_seq = g.last_seq, updated_at = g.at, fence = coalesce(g.new_fence, s.fence),
        active_run_id = CASE
            WHEN g.active_run_id IS NOT NULL THEN g.active_run_id
            WHEN s.active_run_id <> ALL (g.ended) THEN s.active_run_id
        END,
        upstream_thread_id =
            CASE WHEN g.is_marked THEN g.upstream_thread_id ELSE s.upstream_thread_id END,
        upstream_turn = CASE WHEN g.is_marked THEN g.upstream_turn ELSE s.upstream_turn END,
        upstream_tail = CASE WHEN g.is_marked THEN g.upstream_tail ELSE s.upstream_tail END
    FROM jsonb_to_recordset($1::jsonb -> 'places') AS g (
        id text, was_seq bigint, run_id text, fence bigint, at timestamptz, last_seq bigint,
        ended text[], new_fence bigint, active_run_id text, is_marked boolean,
        upstream_thread_id text, upstream_turn bigint, upstream_tail text)
    WHERE s.id = g.id AND s.id = ANY ($2::text[]) AND s.last_seq = g.was_seq
        AND s.deleted_at IS NULL AND (g.fence IS NULL
            OR s.fence = g.fence AND s.active_run_id IS NOT DISTINCT FROM g.run_id)
    RETURNING s.id, s.user_id, g.is_marked AND g.upstream_thread_id IS NULL AS is_lost
), new_runs AS (
    INSERT INTO runs (id, session_id, user_id, assistant_id, assistant_version, model, status,
        attempts, input_message_id, output_message_id, last_error, incomplete_reason, usage, meta,
        seq, turn, created_at, started_at, ended_at)
    SELECT n.id, p.id, p.user_id, n.assistant_id, n.assistant_version, n.model, n.status,
        n.attempts, n.input_message_id, n.output_message_id, n.last_error, n.incomplete_reason,
        n.usage, n.meta, n.seq, n.turn, n.created_at, n.started_at, n.ended_at
    FROM placed p
    JOIN jsonb_populate_recordset(NULL::runs, $1::jsonb -> 'new_runs') n ON n.session_id = p.id
), new_messages AS (
    INSERT INTO messages (id, session_id, run_id, role, status, content, meta, seq, turn,
        created_at, completed_at)
    SELECT n.id, p.id, n.run_id, n.role, n.status, n.content, n.meta, n.seq, n.turn,
        n.created_at, n.completed_at
    FROM placed p
    JOIN jsonb_populate_recordset(NULL::messages, $1::jsonb -> 'new_messages') n
        ON n.session_id = p.id
), changed_runs AS (
    UPDATE runs r
    SET status = n.status, attempts = n.attempts, output_message_id = n.output_message_id,
        tool_calls = n.tool_calls, last_error = n.last_error,
        incomplete_reason = n.incomplete_reason, usage = n.usage, started_at = n.started_at,
        expires_at = n.expires_at, ended_at = n.ended_at,
        upstream_response_id = coalesce(n.upstream_response_id, r.upstream_response_id)
    FROM placed p
    JOIN jsonb_populate_recordset(NULL::runs, $1::jsonb -> 'runs') n ON n.session_id = p.id
    WHERE r.id = n.id
), changed_messages AS (
    UPDATE messages m
    SET status = n.status, content = n.content, completed_at = n.completed_at
    FROM placed p
    JOIN jsonb_populate_recordset(NULL::messages, $1::jsonb -> 'messages') n
        ON n.session_id = p.id
    WHERE m.id = n.id
), noted AS (
    UPDATE runs r
    SET output_message_id = coalesce(n.message_id, r.output_message_id),
        upstream_response_id = coalesce(n.response_id, r.upstream_response_id)
    FROM placed p
    JOIN jsonb_to_recordset($1::jsonb -> 'notes')
        AS n (session_id text, run_id text, message_id text, response_id text)
        ON n.session_id = p.id
    WHERE r.id = n.run_id
), changed_steps AS (
    INSERT INTO run_steps
    SELECT n.* FROM placed p
    JOIN jsonb_populate_recordset(NULL::run_steps, $1::jsonb -> 'steps') n ON n.session_id = p.id
    ON CONFLICT (id) DO UPDATE
    SET status = excluded.status, details = excluded.details, said = excluded.said,
        response_id = excluded.response_id, ended_at = excluded.ended_at
), withdrawn_steps AS (
    DELETE FROM run_steps
    WHERE id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb -> 'no_steps')))
        AND session_id IN (SELECT id FROM placed)
), kept AS (
    INSERT INTO upstream_objects (kind, name, upstream_id, user_id, session_id)
    SELECT 'response', n.response_id, n.response_id, p.user_id, p.id
    FROM placed p
    JOIN jsonb_to_recordset($1::jsonb -> 'responses') AS n (session_id text, response_id text)
        ON n.session_id = p.id
    ON CONFLICT DO NOTHING
), retired AS (
    UPDATE upstream_threads t SET retired_at = now()
    FROM placed p WHERE p.is_lost AND t.session_id = p.id AND t.retired_at IS NULL
), logged AS (
    INSERT INTO events (session_id, seq, type, run_id, data)
    SELECT p.id, e.seq, e.type, e.run_id, e.data
    FROM placed p
    JOIN jsonb_to_recordset($1::jsonb -> 'events')
        AS e (session_id text, seq bigint, type text, run_id text, data text)
        ON e.session_id = p.id
)
SELECT clock_timestamp() AS now,
    CASE WHEN count(*) < jsonb_array_length($1::jsonb -> 'places')
        THEN coalesce(array_agg(id), '{}') END AS moved
FROM placed
"""

_HELD = """
WITH free AS (
    SELECT id FROM sessions WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE SKIP LOCKED
)
SELECT id FROM sessions WHERE id = ANY($1::text[]) AND id NOT IN (SELECT id FROM free)
"""

_WAIT = "SELECT FROM sessions WHERE id = $1 FOR SHARE"

_READ = """
SELECT e.session_id, e.seq, e.type, e.run_id, e.data
FROM unnest(string_to_array($1, E'\\n'), string_to_array($2, E'\\n')::bigint[])
    AS c (session_id, after)
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


class PostgresEventLog:
    """The log, inside one transaction."""

    def __init__(self, driver: Driver, touched: set[str], clock: DatabaseClock) -> None:
        self._driver = driver
        self._touched = touched
        """Sessions that were appended to; their readers are told after the commit."""
        self._clock = clock

    async def append(self, appends: Sequence[Append]) -> list[Append]:
        """Write to many logs in one go; return those refused by their fence or gone.

        An append that knows where its log ended is also refused when that is no longer so.
        """
        at = self._clock.now()
        if at is None or any(append.last_seq is None for append in appends):
            batch = Batch(await self._locked(appends))
        elif is_plain(appends):
            return await self._append_deltas(appends, at)
        else:
            batch = Batch(
                {
                    a.session_id: Place(a.session_id, a.last_seq or 0, at, a.run_id, a.fence)
                    for a in reversed(appends)
                }
            )
        taken: list[Append] = []
        refused: list[Append] = []
        for append in appends:
            (taken if batch.take(append) else refused).append(append)
        if taken:
            rows = await self._driver.fetch(_WRITE, batch.document(), batch.session_ids())
            refused += self._settle(rows, taken)
        return refused

    async def _locked(self, appends: Sequence[Append]) -> dict[str, Place]:
        rows = await self._driver.fetch(_LOCK, list({append.session_id for append in appends}))
        return {
            row["id"]: Place(
                row["id"],
                row["last_seq"],
                self._clock.observe(row["at"]),
                row["active_run_id"],
                row["fence"],
            )
            for row in rows
        }

    async def _append_deltas(self, appends: Sequence[Append], at: datetime) -> list[Append]:
        data = [stamp_delta(append, at) for append in appends]
        rows = await self._driver.fetch(
            _DELTAS,
            _column([append.session_id for append in appends]),
            _column([append.stamped[0].seq for append in appends]),
            _column([append.run_id for append in appends]),
            _column([append.fence for append in appends]),
            _column(data),
            at,
            len(appends),
        )
        return self._settle(rows, appends)

    def _settle(self, rows: Sequence[AnyRow], appends: Sequence[Append]) -> list[Append]:
        """Note whose readers are to be told; return the appends whose log had moved on."""
        self._clock.observe(rows[0]["now"])
        moved = rows[0]["moved"]
        refused = [] if moved is None else [a for a in appends if a.session_id not in moved]
        self._touched.update(a.session_id for a in appends if a.drafts and a not in refused)
        return refused

    async def held(self, session_ids: Sequence[str]) -> set[str]:
        """Lock those sessions that nobody else has locked; return the others."""
        rows = await self._driver.fetch(_HELD, list(session_ids))
        return {row["id"] for row in rows}

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
        ids = _column([cursor.session_id for cursor in cursors])
        afters = _column([cursor.after for cursor in cursors])
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


def _column(values: Sequence[object]) -> str:
    """Write one column of many rows, none of whose values holds a line's end, as one text.

    Of an array's elements the driver asks each whether it is an array itself, which takes longer
    than all the rest; and it does not know `bigint[]`, and asks each new connection what that is.
    """
    return "\n".join(map(str, values))
