"""The log: one place after the other, for whoever holds the run, and nothing twice."""

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.adapters.postgres.clock import TRUSTED_S, DatabaseClock
from app.adapters.postgres.database import PostgresDatabase
from app.adapters.postgres.log import _DELTAS, _HELD, _LOCK, _READ, _READ_RUN, _WRITE
from app.adapters.postgres.queue import _ABANDONED, _HEARTBEAT, _QUEUED
from app.adapters.postgres.wakeups import CHANNELS, MAX_PAYLOAD_BYTES, PostgresWakeUps
from app.domain.events import Delta, RunChanged, StepChanged
from app.domain.models import Part, Principal, Run, RunStatus, User
from app.domain.steps import RunStep, StepStatus
from app.ports import Append, Cursor
from app.services.crowd import Crowd
from app.services.queue import QueuePolicy, QueueService
from app.services.relay import Relay
from app.services.runs import OnActiveRun, Posted, RunService
from app.services.sessions import SessionService
from app.services.users import Limits
from tests.conftest import NewDatabase
from tests.stack import until

LEASE = timedelta(seconds=30)
QUEUES = {"ix_runs_queue", "ix_runs_waiting", "ix_runs_one_active"}
"""Partial indexes of the runs that wait or are at work."""
LIMITS = Limits(
    message_chars=32_000,
    queued_runs_per_session=100,
    queued_runs=10_000,
    streams=20,
    file_bytes=1,
    files=1,
    files_bytes=1,
)


class Desk:
    """Services on one database, without any process beside them."""

    def __init__(self, url: str, database: PostgresDatabase) -> None:
        self.url, self.database = url, database
        wakeups = PostgresWakeUps(url)
        relay = Relay(database, wakeups, news=database, max_streams=20, poll=timedelta(seconds=5))
        self.runs = RunService(database, relay, LIMITS, Crowd(1000))
        self.sessions = SessionService(database)

    async def user(self) -> User:
        principal = Principal(f"user-{uuid.uuid4().hex}", None, frozenset(), 4e9)
        async with self.database.transaction() as uow:
            return User(await uow.users.resolve(principal), principal)

    async def session(self, user: User | None = None) -> tuple[User, str]:
        owner = user or await self.user()
        async with self.database.transaction() as uow:
            assistant = await uow.assistants.default()
            return owner, (await uow.sessions.add(owner.id, assistant.id, None, {})).id

    async def post(self, user: User, session: str, text: str = "What is 1 + 1?") -> Posted:
        return await self.runs.post(
            user,
            session,
            [Part(text)],
            metadata={},
            wants_run=True,
            on_active_run=OnActiveRun.ENQUEUE,
        )

    async def waiting(self, user: User, session: str) -> Run:
        new = (await self.post(user, session)).new
        assert new is not None
        return new.run

    def queue(self, worker: str, *, lease: timedelta = LEASE) -> QueueService:
        hour = timedelta(hours=1)
        return QueueService(
            self.database, worker, QueuePolicy(lease, lifetime=hour, queue_limit=hour)
        )

    async def append(self, *appends: Append) -> list[Append]:
        async with self.database.transaction() as uow:
            return await uow.log.append(appends)

    async def append_alone(self, *appends: Append) -> list[Append]:
        """Append in statements of their own, as a worker's ticks do."""
        async with self.database.autocommit() as uow:
            return await uow.log.append(appends)

    async def append_in_vain(self, append: Append) -> None:
        """Append, and fail before the commit."""
        async with self.database.transaction() as uow:
            assert not await uow.log.append([append])
            raise ZeroDivisionError

    async def events(self, session: str, after: int = 0) -> list[Any]:
        async with self.database.autocommit() as uow:
            return await uow.log.read([Cursor(session, after)], limit=10_000)

    async def told(self, session: str) -> list[str]:
        """Return what the deltas of a session say, in order."""
        events = await self.events(session)
        return [json.loads(e.data)["text"] for e in events if e.type == "message.delta"]

    async def execute(self, statement: str, *arguments: Any) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    async def value(self, query: str, *arguments: Any) -> Any:
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()


@asynccontextmanager
async def desk_on(url: str, *, pool_size: int = 25) -> AsyncIterator[Desk]:
    database = PostgresDatabase(url, pool_size=pool_size)
    try:
        yield Desk(url, database)
    finally:
        await database.aclose()


@pytest.fixture(scope="module")
async def own_database(new_database: NewDatabase) -> str:
    return await new_database()


@pytest.fixture
async def desk(own_database: str) -> AsyncIterator[Desk]:
    async with desk_on(own_database) as found:
        # What other tests left is out of the way.
        await found.execute("UPDATE sessions SET deleted_at = now()")
        yield found


def a_step(session: str, run: str = "run_none", kind: str = "function") -> StepChanged:
    """Return a whole step that nobody took."""
    step = RunStep(f"step_{uuid.uuid4().hex}", session, run, kind, StepStatus.COMPLETED)
    return StepChanged(step, is_new=True)


def says(session: str, *texts: str, run: str = "run_none") -> Append:
    return Append(session, [Delta("msg_none", run, 0, [text]) for text in texts])


async def test_twenty_writers_to_one_session_leave_no_gap_and_keep_their_own_order(
    desk: Desk,
) -> None:
    _, session = await desk.session()

    async def write(writer: int) -> None:
        for number in range(10):
            await desk.append(says(session, f"{writer}:{number}:a", f"{writer}:{number}:b"))

    await asyncio.gather(*(write(writer) for writer in range(20)))
    events = await desk.events(session)
    assert [event.seq for event in events] == list(range(1, 401))
    said = [json.loads(event.data)["text"] for event in events]
    assert all(json.loads(event.data)["seq"] == event.seq for event in events)
    for writer in range(20):
        own = [text for text in said if text.startswith(f"{writer}:")]
        assert own == [f"{writer}:{n}:{half}" for n in range(10) for half in "ab"]
        # What was appended together stands together.
        places = [said.index(text) for text in own[::2]]
        assert all(said[place + 1].endswith("b") for place in places)
    instants = [json.loads(event.data)["at"] for event in events]
    assert instants == sorted(instants)
    assert await desk.value("SELECT last_seq FROM sessions WHERE id = $1", session) == 400


async def test_batches_of_many_writers_over_the_same_sessions_never_deadlock(desk: Desk) -> None:
    user = await desk.user()
    sessions = [(await desk.session(user))[1] for _ in range(20)]

    async def write(writer: int) -> None:
        for number in range(8):
            turned = sessions[(writer + number) % 20 :] + sessions[: (writer + number) % 20]
            ordered = turned if writer % 2 else turned[::-1]
            assert not await desk.append(*(says(each, "x") for each in ordered))

    await asyncio.gather(*(write(writer) for writer in range(12)))
    for session in sessions:
        assert [event.seq for event in await desk.events(session)] == list(range(1, 97))


async def test_a_transaction_that_fails_leaves_no_place_behind(desk: Desk) -> None:
    _, session = await desk.session()
    await desk.append(says(session, "first"))
    with pytest.raises(ZeroDivisionError):
        await desk.append_in_vain(says(session, "lost"))
    await desk.append(says(session, "second"))
    assert await desk.told(session) == ["first", "second"]
    assert [event.seq for event in await desk.events(session)] == [1, 2]


async def test_a_worker_that_lost_its_run_writes_nothing_while_others_in_its_batch_do(
    desk: Desk,
) -> None:
    user = await desk.user()
    sessions = [(await desk.session(user))[1] for _ in range(4)]
    for session in sessions:
        await desk.waiting(user, session)
    old = desk.queue("worker_old")
    claims = {claim.run.session_id: claim for claim in await old.claim(10)}
    lost, handed, deleted, kept = sessions
    # One is taken over, one comes back to the same worker under a new fence, one is deleted.
    await old.hand_over([claims[lost].run.id])
    (taken,) = await desk.queue("worker_new").take_over(10, reap=False, held=[])
    assert taken.run.session_id == lost
    await old.hand_over([claims[handed].run.id])
    (again,) = await old.take_over(10, reap=False, held=[])
    assert again.fence == claims[handed].fence + 1
    await desk.sessions.delete(user, deleted)

    before = {session: len(await desk.events(session)) for session in sessions}
    appends = [
        Append(
            each,
            [Delta("msg_none", claims[each].run.id, 0, ["mine"])],
            run_id=claims[each].run.id,
            fence=claims[each].fence,
        )
        for each in sessions
    ]
    refused = await desk.append(*appends)
    assert {append.session_id for append in refused} == {lost, handed, deleted}
    assert await desk.told(kept) == ["mine"]
    for session in (lost, handed, deleted):
        assert len(await desk.events(session)) == before[session]
    for claim in (taken, again):
        run = claim.run
        draft = Delta("msg_none", run.id, 0, ["now mine"])
        append = Append(run.session_id, [draft], run_id=run.id, fence=claim.fence)
        assert not await desk.append(append)
        assert await desk.told(run.session_id) == ["now mine"]


async def test_nothing_follows_the_end_of_a_run(desk: Desk) -> None:
    user, session = await desk.session()
    await desk.waiting(user, session)
    (claim,) = await desk.queue("worker_a").claim(1)
    ended = RunChanged(replace(claim.run, status=RunStatus.COMPLETED))
    run_id, fence = claim.run.id, claim.fence
    assert not await desk.append(Append(session, [ended], run_id=run_id, fence=fence))
    late = [
        Delta("msg_none", run_id, 0, ["late"]),
        RunChanged(replace(claim.run, status=RunStatus.FAILED)),
    ]
    for draft in late:
        assert len(await desk.append(Append(session, [draft], run_id=run_id, fence=fence))) == 1
    assert (await desk.events(session))[-1].type == "run.completed"
    assert (await desk.runs.get(user, session, run_id)).status is RunStatus.COMPLETED


@pytest.mark.parametrize("kind", ["locked", "delta alone", "with rows"])
async def test_a_fence_is_tested_on_the_row_as_it_is_once_its_lock_is_had(
    desk: Desk, kind: str
) -> None:
    """The old holder waits for the row while it is taken over: it must see the new fence."""
    user, session = await desk.session()
    await desk.waiting(user, session)
    old = desk.queue("worker_old")
    (claim,) = await old.claim(1)
    await old.hand_over([claim.run.id])
    run_id = claim.run.id
    stale = Append(
        session, [Delta("msg_none", run_id, 0, ["stale"])], run_id=run_id, fence=claim.fence
    )
    if kind != "locked":
        # Nothing but the fence keeps it out: a takeover adds no event.
        stale.last_seq = claim.last_seq
    if kind == "with rows":
        stale.drafts.append(RunChanged(replace(claim.run, status=RunStatus.COMPLETED)))
    write = desk.append if kind == "locked" else desk.append_alone
    async with desk.database.transaction() as uow:
        (taken,) = await uow.queue.lease_abandoned(
            "worker_new", lease=LEASE, limit=1, reap=False, held=[]
        )
        writing = asyncio.create_task(write(stale))
        await _someone_waits_for_a_lock(desk)
        takeover = Append(session, [], run_id=run_id, new_fence=taken.fence)
        assert not await uow.log.append([takeover])
    assert await writing == [stale]
    assert await desk.told(session) == []
    assert (await desk.runs.get(user, session, run_id)).status is RunStatus.IN_PROGRESS


@pytest.mark.parametrize("is_plain", [True, False])
async def test_who_knows_an_end_that_is_no_more_writes_nothing_and_others_in_the_batch_do(
    desk: Desk, *, is_plain: bool
) -> None:
    user = await desk.user()
    sessions = [(await desk.session(user))[1] for _ in range(3)]
    for session in sessions:
        await desk.waiting(user, session)
    claims = {claim.run.session_id: claim for claim in await desk.queue("worker_a").claim(10)}
    moved = sessions[1]
    await desk.append(says(moved, "somebody else's"))
    appends = []
    for session in sessions:
        claim = claims[session]
        delta = Delta("msg_none", claim.run.id, 0, ["mine"])
        ended = [] if is_plain else [RunChanged(replace(claim.run, status=RunStatus.COMPLETED))]
        appends.append(
            Append(
                session,
                [delta, *ended],
                run_id=claim.run.id,
                fence=claim.fence,
                last_seq=claim.last_seq,
            )
        )
    assert await desk.append_alone(*appends) == [appends[1]]
    assert await desk.told(moved) == ["somebody else's"]
    for session in sessions:
        run = await desk.runs.get(user, session, claims[session].run.id)
        is_written = session != moved
        assert (run.status is RunStatus.COMPLETED) == (is_written and not is_plain)
        if is_written:
            assert await desk.told(session) == ["mine"]
    # Once the end is looked up, it goes on.
    appends[1].last_seq = None
    assert not await desk.append(appends[1])
    assert await desk.told(moved) == ["somebody else's", "mine"]
    seqs = [event.seq for event in await desk.events(moved)]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_instants_of_those_who_know_the_end_are_the_database_s_and_in_order(
    desk: Desk,
) -> None:
    user, session = await desk.session()
    await desk.waiting(user, session)
    (claim,) = await desk.queue("worker_a").claim(1)
    last_seq = claim.last_seq
    for number in range(20):
        delta = Delta("msg_none", claim.run.id, 0, [f"{number}"])
        append = Append(
            session, [delta], run_id=claim.run.id, fence=claim.fence, last_seq=last_seq
        )
        if number % 5 == 4:
            append.last_seq = None
        assert not await desk.append_alone(append)
        last_seq = append.stamped[-1].seq
    now = await desk.value("SELECT clock_timestamp()")
    instants = [
        datetime.fromisoformat(json.loads(event.data)["at"])
        for event in await desk.events(session)
    ]
    assert instants == sorted(instants)
    assert timedelta() <= now - instants[-1] < timedelta(seconds=10)


async def test_a_clock_that_was_not_heard_of_lately_is_not_trusted() -> None:
    clock = DatabaseClock()
    assert clock.now() is None
    told = datetime(2030, 1, 1, tzinfo=UTC)
    clock.observe(told)
    first, second = clock.now(), clock.now()
    assert first is not None
    assert second is not None
    assert told <= first <= second
    clock._heard -= TRUSTED_S  # noqa: SLF001 - ten seconds pass
    assert clock.now() is None


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(_DELTAS, id="deltas"),
        pytest.param(_WRITE, id="write"),
        pytest.param(_LOCK, id="lock"),
        pytest.param(_HELD, id="held"),
        pytest.param(_READ, id="read"),
        pytest.param(_READ_RUN, id="read_run"),
        pytest.param(_QUEUED, id="claim"),
        pytest.param(_HEARTBEAT, id="heartbeat"),
        pytest.param(_ABANDONED, id="take_over"),
    ],
)
async def test_a_plan_made_on_small_tables_does_not_read_all_of_large_ones(
    desk: Desk, statement: str
) -> None:
    """Plans are kept: one that scans costs every commit the size of the table, for good."""
    async with desk.database._connection() as (_, driver):  # noqa: SLF001 - as the service does
        assert await driver.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
        await driver.execute(f"PREPARE kept AS {statement}")
        count = await driver.fetchval(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'kept'"
        )
        nothing = ", ".join(["NULL"] * count)
        told = await driver.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE kept ({nothing})")
        await driver.execute("DEALLOCATE kept")
    scans = list(_scans(told[0]["Plan"]))
    assert scans
    assert [scan for scan in scans if not _is_bounded(scan)] == []


def _scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if plan["Node Type"] in {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan"}:
        yield {name: value for name, value in plan.items() if name != "Plans"}
    for inner in plan.get("Plans", ()):
        yield from _scans(inner)


def _is_bounded(scan: dict[str, Any]) -> bool:
    """Tell whether a scan reads what it is asked for, or a queue: those hold few rows."""
    return "Index Cond" in scan or scan.get("Index Name") in QUEUES


async def _someone_waits_for_a_lock(desk: Desk) -> None:
    query = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'"""

    async def is_waiting() -> bool:
        return bool(await desk.value(query))

    await until(is_waiting, every=0.01)


async def test_a_commit_over_three_hundred_sessions_tells_its_readers_within_bounds(
    desk: Desk,
) -> None:
    user = await desk.user()
    assistant = await desk.value("SELECT id FROM assistants WHERE is_default")
    many = 300
    await desk.execute(
        """INSERT INTO sessions (id, user_id, assistant_id, status, meta)
        SELECT 'sess_' || md5(i::text) || 'abcdef', $1, $2, 'open', '{}'
        FROM generate_series(1, $3::int) i""",
        user.id,
        assistant,
        many,
    )
    connection = await asyncpg.connect(desk.url)
    heard: asyncio.Queue[str] = asyncio.Queue()
    try:
        mine = "SELECT id FROM sessions WHERE user_id = $1"
        sessions = [row["id"] for row in await connection.fetch(mine, user.id)]
        assert len(",".join(sessions)) > MAX_PAYLOAD_BYTES
        await connection.add_listener(
            CHANNELS["events"], lambda *said: heard.put_nowait(str(said[-1]))
        )
        assert not await desk.append(*(says(session, "x") for session in sessions))
        assert not await asyncio.wait_for(heard.get(), 10), "too many to name: any of them"
        few = sessions[:5]
        assert not await desk.append(*(says(session, "y") for session in few))
        assert set((await asyncio.wait_for(heard.get(), 10)).split(",")) == set(few)
    finally:
        await connection.close()
    written = "SELECT sum(last_seq) FROM sessions WHERE user_id = $1"
    assert await desk.value(written, user.id) == many + 5
    assert heard.empty()


async def test_only_the_deltas_of_runs_that_ended_long_ago_are_pruned(desk: Desk) -> None:
    user, session = await desk.session()
    queue = desk.queue("worker_a")
    for number in range(2):
        await desk.waiting(user, session)
        (claim,) = await queue.claim(1)
        run_id = claim.run.id
        drafts = [Delta("msg_none", run_id, 0, [f"{number}"]), Delta("msg_none", run_id, 0, ["!"])]
        ended = RunChanged(replace(claim.run, status=RunStatus.COMPLETED))
        await desk.append(Append(session, [*drafts, ended], run_id=run_id, fence=claim.fence))
        if number == 0:
            early = "UPDATE runs SET ended_at = now() - interval '2 hours' WHERE id = $1"
            await desk.execute(early, run_id)
    before = await desk.events(session)
    async with desk.database.transaction() as uow:
        assert await uow.log.prune(older_than=timedelta(hours=1), limit=10) == 2
        assert await uow.log.prune(older_than=timedelta(hours=1), limit=10) == 0
        state = await uow.log.state(session)
    pruned = [event for event in before if event.type == "message.delta"][:2]
    assert state.pruned_seq == pruned[-1].seq
    assert await desk.events(session) == [event for event in before if event not in pruned]


async def test_an_event_is_stored_as_the_very_text_that_is_sent(desk: Desk) -> None:
    _, session = await desk.session()
    text = '분수 ½\u2028줄\u0085끝\t"따옴표" \\ \r\n\n\nid: 7\nevent: done 😀 \u200b'
    await desk.append(says(session, text))
    (event,) = await desk.events(session)
    assert json.loads(event.data)["text"] == text
    assert await desk.value("SELECT data FROM events WHERE session_id = $1", session) == event.data
    assert not re.search(r"[\r\n]", event.data)
    assert event.block() == f"id: 1\nevent: message.delta\ndata: {event.data}\n\n".encode()


async def test_a_step_s_row_is_what_its_last_event_says_and_one_withdrawn_has_none(
    desk: Desk,
) -> None:
    user, session = await desk.session()
    await desk.waiting(user, session)
    (claim,) = await desk.queue("worker_a").claim(1)
    kept, lost = (
        StepChanged(
            RunStep(
                f"step_{uuid.uuid4().hex}",
                session,
                claim.run.id,
                "code_interpreter",
                StepStatus.IN_PROGRESS,
                key="it_1",
            ),
            is_new=True,
        )
        for _ in range(2)
    )
    done = replace(kept.step, status=StepStatus.COMPLETED, details={"input": "1 + 1"})
    gone = StepChanged(replace(lost.step, status=StepStatus.WITHDRAWN), opened=lost)
    ended = StepChanged(done, opened=kept)

    def written(*drafts: StepChanged) -> Append:
        return Append(session, [*drafts], run_id=claim.run.id, fence=claim.fence)

    async def rows() -> list[RunStep]:
        async with desk.database.snapshot() as uow:
            return list(await uow.runs.steps(claim.run))

    assert not await desk.append(written(kept, lost))
    assert await rows() == [kept.step, lost.step]
    assert not await desk.append(written(gone, ended))
    (row,) = await rows()
    assert row == ended.step
    assert (row.seq, row.begun_at) == (kept.step.seq, kept.step.begun_at)
    assert row.ended_at is not None
    told = [json.loads(event.data) for event in await desk.events(session)][-4:]
    assert [event["step"]["status"] for event in told] == [
        "in_progress", "in_progress", "withdrawn", "completed",
    ]  # fmt: skip
    # All of it in one statement, too.
    again, more = a_step(session, claim.run.id), a_step(session, claim.run.id)
    taken_back = replace(again.step, status=StepStatus.WITHDRAWN)
    assert not await desk.append(written(again, more, StepChanged(taken_back, opened=again)))
    assert await rows() == [row, more.step]
