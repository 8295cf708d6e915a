"""The writer of a worker's runs: together, at once where it matters, and never twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from app.adapters.postgres.database import PostgresDatabase
from app.adapters.tools.toolbox import Toolbox
from app.domain.errors import FencedError
from app.domain.events import Delta, Draft, MessageChanged
from app.domain.models import (
    Message,
    MessageStatus,
    Part,
    PartKind,
    Role,
    Run,
    RunStatus,
    User,
)
from app.ports import Append, Claim, Ended, Generation, TextDelta, Thread, Turn, UpstreamEvent
from app.services import publisher as module
from app.services.answer import Answer
from app.services.execution import Execution, Executor
from app.services.publisher import Publisher, RunLog
from tests.conftest import NewDatabase
from tests.integration.test_log import Desk, a_step, desk_on
from tests.pooler import needs_pgbouncer, pooler_before
from tests.stack import until

Fault = Literal["answer lost", "never arrives", "arrives late"]
LATE_S = 1.0


class Proxy:
    """Stands between a client and Postgres, and can spoil one commit."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.fault: Fault | None = None
        self.marker = b"COMMIT;"
        """What the request says that commits: of one statement alone, its data."""
        self.spoiled = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._url)
        folder = parse_qs(parts.query).get("host")
        if folder:
            return await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.5432")
        return await asyncio.open_connection(parts.hostname, parts.port or 5432)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        to_client, to_server = writer, None
        try:
            from_server, to_server = await self._dial()
            back = asyncio.create_task(_copy(from_server, to_client))
            try:
                while data := await reader.read(1 << 16):
                    fault = self.fault
                    if fault is None or self.marker not in data:
                        to_server.write(data)
                        await to_server.drain()
                        continue
                    self.fault = None
                    self.spoiled += 1
                    back.cancel()
                    await asyncio.wait([back])
                    if fault == "answer lost":
                        to_server.write(data)
                        # The answer is here, so it is committed.
                        assert await from_server.read(1)
                    to_client.transport.abort()
                    if fault == "arrives late":
                        await asyncio.sleep(LATE_S)
                        to_server.write(data)
                        assert await from_server.read(1)
                    return
            finally:
                back.cancel()
        except OSError:
            pass
        finally:
            for end in (to_client, to_server):
                if end is not None:
                    end.close()

    async def settled(self) -> None:
        """End every connection that passes here."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0] or "postgres"
    proxy.url = f"postgresql://{credentials}@127.0.0.1:{port}{parts.path}?sslmode=disable"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.settled()
        await server.wait_closed()


@asynccontextmanager
async def writing(database: PostgresDatabase) -> AsyncIterator[Publisher]:
    publisher = Publisher(database)
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(scope="module")
async def own_database(new_database: NewDatabase) -> str:
    return await new_database()


@pytest.fixture
async def desk(own_database: str) -> AsyncIterator[Desk]:
    async with desk_on(own_database) as found:
        yield found


@pytest.fixture
async def publisher(desk: Desk) -> AsyncIterator[Publisher]:
    async with writing(desk.database) as found:
        yield found


@pytest.fixture
def wide_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tick comes by itself while a test lasts."""
    monkeypatch.setattr(module, "TICK_S", 600.0)


async def claimed(desk: Desk, count: int) -> tuple[User, Sequence[Claim]]:
    user = await desk.user()
    for _ in range(count):
        _, session = await desk.session(user)
        await desk.waiting(user, session)
    return user, await desk.queue("worker_a").claim(count)


def say(log: RunLog, text: str) -> None:
    log.delta("msg_none", 0, text)


# ---------------------------------------------------------------- the tick


async def test_the_first_delta_is_written_at_once_and_later_ones_merge_until_the_tick(
    desk: Desk, wide_ticks: None
) -> None:
    del wide_ticks
    async with writing(desk.database) as publisher:
        _, (claim,) = await claimed(desk, 1)
        log = publisher.open(claim)
        answer = Answer(log, claim.run, None)
        session = claim.run.session_id
        answer.grow(0, "The first", PartKind.TEXT)

        async def is_told() -> bool:
            return await desk.told(session) == ["The first"]

        await until(is_told)
        for number in range(100):
            answer.grow(0, f" {number}", PartKind.TEXT)
            await asyncio.sleep(0)
        assert await desk.told(session) == ["The first"], "the others wait for the tick"
        await log.flush()
        merged = "".join(f" {number}" for number in range(100))
        assert await desk.told(session) == ["The first", merged]


async def test_what_many_say_first_is_gathered_while_commits_are_slow_but_never_past_a_tick(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER", 1e9)  # As if each commit took for ever.
    monkeypatch.setattr(module, "TICK_S", 0.3)
    async with writing(desk.database) as publisher:
        _, claims = await claimed(desk, 10)
        answers = [Answer(publisher.open(claim), claim.run, None) for claim in claims]
        answers[0].grow(0, "Alone.", PartKind.TEXT)

        async def is_told() -> bool:
            return bool(await desk.told(claims[0].run.session_id))

        await until(is_told, every=0.01)
        for answer in answers[1:]:
            answer.grow(0, "Together.", PartKind.TEXT)
            await asyncio.sleep(0.001)

        async def are_told() -> bool:
            told = [await desk.told(claim.run.session_id) for claim in claims]
            return all(told)

        await until(are_told)
        events = [await desk.events(claim.run.session_id, after=3) for claim in claims]
        instants = [json.loads(found[0].data)["at"] for found in events]
        assert instants[1] > instants[0]
        assert len(set(instants)) == 2


async def test_a_status_is_not_kept_waiting_and_takes_what_waits_along(
    desk: Desk, wide_ticks: None
) -> None:
    del wide_ticks
    async with writing(desk.database) as publisher:
        _, (one, other) = await claimed(desk, 2)
        first, second = publisher.open(one), publisher.open(other)
        say(second, "waits")
        answer = Answer(first, one.run, None)
        answer.grow(0, "At once.", PartKind.TEXT)
        await first.flush()
        (ended,) = answer.end(MessageStatus.COMPLETED)
        first.append(ended)
        await first.flush()
        assert (await desk.events(one.run.session_id))[-1].type == "message.completed"
        assert await desk.told(other.run.session_id) == ["waits"]


async def test_parts_do_not_merge_into_each_other(desk: Desk, publisher: Publisher) -> None:
    _, (claim,) = await claimed(desk, 1)
    log = publisher.open(claim)
    for part, text in ((0, "a"), (0, "b"), (1, "c"), (1, "d"), (0, "e")):
        log.delta("msg_none", part, text)
    await log.flush()
    events = await desk.events(claim.run.session_id)
    deltas = [json.loads(event.data) for event in events if event.type == "message.delta"]
    assert [(delta["part"], delta["text"]) for delta in deltas] == [
        (0, "ab"),
        (1, "cd"),
        (0, "e"),
    ]


# ---------------------------------------------------------------- one among many


async def test_a_run_that_is_deleted_or_lost_drops_out_of_the_batch_alone(
    desk: Desk, publisher: Publisher
) -> None:
    user, claims = await claimed(desk, 6)
    logs = [publisher.open(claim) for claim in claims]
    await desk.sessions.delete(user, claims[0].run.session_id)
    await desk.queue("worker_a").hand_over([claims[1].run.id])
    await desk.queue("worker_b").take_over(1, reap=False, held=[])
    for log in logs:
        say(log, "text")
    found = await asyncio.gather(*(log.flush() for log in logs), return_exceptions=True)
    assert [type(each) for each in found] == [FencedError] * 2 + [type(None)] * 4
    assert [log.is_fenced for log in logs] == [True] * 2 + [False] * 4
    for claim in claims[2:]:
        assert await desk.told(claim.run.session_id) == ["text"]
    say(logs[1], "again")
    with pytest.raises(FencedError):
        await logs[1].flush()


async def test_a_session_that_somebody_else_holds_keeps_only_its_own_run_waiting(
    desk: Desk, publisher: Publisher, own_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, claims = await claimed(desk, 4)
    logs = [publisher.open(claim) for claim in claims]
    stuck, others = logs[0], logs[1:]
    holder = await asyncpg.connect(own_database)
    try:
        async with holder.transaction():
            session = claims[0].run.session_id
            await holder.fetch("SELECT id FROM sessions WHERE id = $1 FOR UPDATE", session)
            say(stuck, "I wait. ")
            waiting = asyncio.create_task(stuck.flush())
            for word in ("Still", " we", " go", " on."):
                for log in others:
                    say(log, word)
                await asyncio.gather(*(log.flush() for log in others))
            say(stuck, "Here I am.")
            assert not waiting.done()
            assert caplog.text.count("somebody else holds") == 1, "waited for at every tick"
        await waiting
        await stuck.flush()
    finally:
        await holder.close()
    assert "".join(await desk.told(session)) == "I wait. Here I am."
    assert not any(log.is_fenced for log in logs)
    for claim in claims:
        last_seq = await desk.value(
            "SELECT last_seq FROM sessions WHERE id = $1", claim.run.session_id
        )
        assert last_seq == len(await desk.events(claim.run.session_id))
    for claim in claims[1:]:
        assert "".join(await desk.told(claim.run.session_id)) == "Still we go on."


@needs_pgbouncer
async def test_behind_a_pooler_too_a_held_session_keeps_only_its_own_run_waiting(
    desk: Desk, own_database: str
) -> None:
    """No setting of a connection bounds there how long a lock is waited for."""
    _, claims = await claimed(desk, 2)
    holder = await asyncpg.connect(own_database)
    with pooler_before(own_database) as pooler:
        pooled = PostgresDatabase(pooler.url, pool_size=3)
        writer = Publisher(pooled)
        writing = asyncio.create_task(writer.run())
        stuck, free = (writer.open(claim) for claim in claims)
        async with holder.transaction():
            session = claims[0].run.session_id
            await holder.fetch("SELECT id FROM sessions WHERE id = $1 FOR UPDATE", session)
            say(stuck, "I wait.")
            say(free, "I go on.")
            async with asyncio.timeout(20):
                await free.flush()
        await stuck.flush()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await pooled.aclose()
    await holder.close()
    told = [await desk.told(claim.run.session_id) for claim in claims]
    assert told == [["I wait."], ["I go on."]]


def refused_text(run: Run, text: str) -> list[Draft]:
    """Past the cleaning, as a fault of ours would."""
    message = Message(
        id=f"msg_{run.id}",
        session_id=run.session_id,
        run_id=run.id,
        role=Role.ASSISTANT,
        status=MessageStatus.COMPLETED,
        content=[Part(text)],
        metadata={},
    )
    return [MessageChanged(message, run_id=run.id, is_new=True)]


@pytest.mark.parametrize("poison", ["a\x00b", "a\ud800b"], ids=["nul", "surrogate"])
async def test_text_that_postgres_refuses_stops_only_the_run_that_said_it(
    desk: Desk, publisher: Publisher, poison: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, claims = await claimed(desk, 5)
    logs = [publisher.open(claim) for claim in claims]
    for log in logs:
        say(log, "fine")
    logs[2].append(*refused_text(claims[2].run, poison))
    found = await asyncio.gather(*(log.flush() for log in logs), return_exceptions=True)
    assert [type(each) is FencedError for each in found] == [False, False, True, False, False]
    for number, claim in enumerate(claims):
        session = claim.run.session_id
        assert await desk.told(session) == ([] if number == 2 else ["fine"])
        last_seq = await desk.value("SELECT last_seq FROM sessions WHERE id = $1", session)
        assert last_seq == len(await desk.events(session))
    assert "can't be written" in caplog.text


class Script:
    """An upstream that says what it is told to."""

    is_background = False

    def __init__(self, deltas: Sequence[str], final: str) -> None:
        self._deltas, self._final = deltas, final

    async def open_thread(self, turns: Sequence[Turn]) -> Thread | None:
        del turns
        return None

    async def generate(
        self, generation: Generation, listen: Callable[[UpstreamEvent], None]
    ) -> Ended:
        del generation
        for text in self._deltas:
            listen(TextDelta(0, text))
            await asyncio.sleep(0)
        return Ended(RunStatus.COMPLETED, [Part(self._final)], None)

    async def outcome(
        self,
        *,
        response_id: str | None,
        thread_id: str | None,
        tail: str | None,
        listen: Callable[[UpstreamEvent], None],
    ) -> Ended | None:
        raise NotImplementedError

    async def cancel(self, response_id: str) -> Ended | None:
        raise NotImplementedError

    async def delete_thread(self, thread_id: str) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("deltas", "final", "shown"),
    [
        (["a\x00", "\x00b"], "a\x00\x00b", "a\ufffd\ufffdb"),
        (["x\ud800", "y", "\udfff"], "x\ud800y\udfff", "x\ufffdy\ufffd"),
        (["\ud83d\ude00!"], "\ud83d\ude00!", "😀!"),
        # Halves that come apart are no text yet; the whole answer says what was meant.
        (["ok \ud83d", "\ude00"], "ok 😀", "ok 😀"),
        (
            ["분수\u2028", "줄\u0085끝\x00"],
            "분수\u2028줄\u0085끝\x00",
            "분수\u2028줄\u0085끝\ufffd",
        ),
    ],
    ids=["nul", "lone", "pair", "split pair", "separators"],
)
async def test_what_the_upstream_says_is_cleaned_and_all_accounts_agree(
    desk: Desk, publisher: Publisher, deltas: list[str], final: str, shown: str
) -> None:
    user, (claim,) = await claimed(desk, 1)
    executor = Executor(
        desk.database,
        Script(deltas, final),
        publisher,
        Toolbox([], timeout_s=1),
        "worker_a",
        max_attempts=1,
    )
    await executor.execute(Execution(claim))
    run: Run = await desk.runs.get(user, claim.run.session_id, claim.run.id)
    assert run.status is RunStatus.COMPLETED
    assert run.output_message_id is not None
    message = await desk.runs.message(user, run.session_id, run.output_message_id)
    assert [part.text for part in message.content] == [shown]
    told = ""
    for event in await desk.events(run.session_id):
        if event.type == "message.reset":
            told = ""
        elif event.type == "message.delta":
            told += json.loads(event.data)["text"]
    assert told == shown


# ---------------------------------------------------------------- commits in doubt


@pytest.mark.parametrize("way", ["statement", "transaction"])
@pytest.mark.parametrize("fault", ["answer lost", "never arrives", "arrives late"])
async def test_a_commit_in_doubt_is_looked_up_and_nothing_is_lost_or_written_twice(
    desk: Desk, own_database: str, fault: Fault, way: str
) -> None:
    _, claims = await claimed(desk, 4)
    lost = claims[3]
    await desk.queue("worker_a").hand_over([lost.run.id])
    await desk.queue("worker_b").take_over(1, reap=False, held=[])
    async with proxy_to(own_database) as proxy, desk_on(proxy.url, pool_size=3) as through:  # noqa: SIM117
        async with writing(through.database) as publisher:
            logs = [publisher.open(claim) for claim in claims]
            for log in logs[:3]:
                say(log, "one ")
                await log.flush()
            if way == "statement":
                proxy.marker = b'"text":"two "'
            else:
                # Somebody else wrote to the logs: they are locked and looked at first.
                for claim in claims[:3]:
                    step = a_step(claim.run.session_id)
                    await desk.append(Append(claim.run.session_id, [step]))
            proxy.fault = fault
            for log in logs:
                say(log, "two ")
            flushes = asyncio.gather(*(log.flush() for log in logs), return_exceptions=True)

            async def is_spoiled() -> bool:
                return bool(proxy.spoiled)

            await until(is_spoiled, every=0.01)
            for log in logs[:3]:
                say(log, "three")
            async with asyncio.timeout(30):
                found = await flushes
            assert [type(each) for each in found] == [type(None)] * 3 + [FencedError]
            for log in logs[:3]:
                await log.flush()
    assert proxy.spoiled == 1
    for claim in claims[:3]:
        told = await desk.told(claim.run.session_id)
        assert "".join(told) == "one two three"
        events = await desk.events(claim.run.session_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert await desk.told(lost.run.session_id) == []


async def test_an_event_of_somebody_else_is_not_taken_for_a_doubtful_one(desk: Desk) -> None:
    """The run was taken over meanwhile: the place is filled, but not by us."""
    _, (claim,) = await claimed(desk, 1)
    run = claim.run
    log = Publisher(desk.database).open(claim)
    say(log, "same")
    append = log.take()
    with pytest.raises(ZeroDivisionError):
        await desk.append_in_vain(append)
    async with desk.database.transaction() as uow:
        assert not await uow.log.is_written(append)
        twin = type(append)(run.session_id, [Delta("msg_none", run.id, 0, ["same"])])
        assert not await uow.log.append([twin])
        assert twin.stamped[-1].seq == append.stamped[-1].seq
        assert not await uow.log.is_written(append)
        assert await uow.log.is_written(twin)
