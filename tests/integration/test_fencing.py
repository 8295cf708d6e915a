"""A worker that lost its run without knowing: all that it could still do, it does in vain."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from app.domain.errors import FencedError
from app.domain.events import Delta, Draft, MessageChanged, RunChanged, StepChanged, Withdrawal
from app.domain.models import Message, MessageStatus, Part, Role, RunStatus, User
from app.ports import Append, Claim, Thread, ThreadMark
from app.services import conversation
from app.services.attempts import AttemptCounter
from app.services.conversation import Conversation
from tests.conftest import NewDatabase
from tests.integration.test_log import Desk, a_step, desk_on
from tests.stack import Stack, until

SHORT = timedelta(milliseconds=100)
LONG_AGO = "UPDATE runs SET lease_expires_at = now() - interval '1 minute' WHERE id = $1"
ROWS = {
    "sessions": "SELECT * FROM sessions WHERE id = $1",
    "runs": "SELECT * FROM runs WHERE session_id = $1 ORDER BY id",
    "steps": "SELECT * FROM run_steps WHERE session_id = $1 ORDER BY id",
    "messages": "SELECT * FROM messages WHERE session_id = $1 ORDER BY id",
    "events": "SELECT * FROM events WHERE session_id = $1 ORDER BY seq",
    "threads in use": """SELECT * FROM upstream_threads
        WHERE session_id = $1 AND retired_at IS NULL ORDER BY thread_id""",
}


@pytest.fixture(scope="module")
async def own_database(new_database: NewDatabase) -> str:
    return await new_database()


@pytest.fixture
async def desk(own_database: str) -> AsyncIterator[Desk]:
    async with desk_on(own_database, pool_size=4) as found:
        await found.execute("UPDATE sessions SET deleted_at = now()")
        yield found


async def rows_of(desk: Desk, session: str) -> dict[str, list[Any]]:
    connection = await asyncpg.connect(desk.url)
    try:
        return {name: await connection.fetch(query, session) for name, query in ROWS.items()}
    finally:
        await connection.close()


# ---------------------------------------------------------------- how a run is lost


async def _taken_over(desk: Desk, _user: User, claim: Claim) -> Claim:
    await desk.execute(LONG_AGO, claim.run.id)
    (taken,) = await desk.queue("worker_b", lease=SHORT).take_over(5, reap=True, held=[])
    assert taken.run.id == claim.run.id
    return taken


async def _taken_over_and_ended(desk: Desk, user: User, claim: Claim) -> Claim:
    taken = await _taken_over(desk, user, claim)
    ended = RunChanged(replace(taken.run, status=RunStatus.COMPLETED))
    run = taken.run
    assert not await desk.append(Append(run.session_id, [ended], run_id=run.id, fence=taken.fence))
    return taken


async def _ended_and_followed(desk: Desk, user: User, claim: Claim) -> None:
    await _taken_over_and_ended(desk, user, claim)
    await desk.waiting(user, claim.run.session_id)
    # The very worker that was frozen may have the session's next run.
    (other,) = await desk.queue("worker_a").claim(5)
    assert other.run.session_id == claim.run.session_id


async def _deleted(desk: Desk, user: User, claim: Claim) -> None:
    await desk.sessions.delete(user, claim.run.session_id)


LOSSES = {
    "taken over": _taken_over,
    "taken over and ended": _taken_over_and_ended,
    "ended, and followed by another": _ended_and_followed,
    "deleted": _deleted,
}

# ---------------------------------------------------------------- what it tries


def _appends(*drafts: Draft, **more: Any) -> Callable[[Desk, Claim], Awaitable[None]]:
    async def attempt(desk: Desk, claim: Claim) -> None:
        run = claim.run
        own = [
            replace(each, run_id=run.id)
            if isinstance(each, Delta | Withdrawal)
            else (a_step(run.session_id, run.id) if isinstance(each, StepChanged) else each)
            for each in drafts
        ]
        append = Append(run.session_id, own, run_id=run.id, fence=claim.fence, **more)
        assert await desk.append(append) == [append]

    return attempt


async def _open_an_answer(desk: Desk, claim: Claim) -> None:
    run = claim.run
    message = Message(
        "msg_late", run.session_id, run.id, Role.ASSISTANT, MessageStatus.IN_PROGRESS, [], {}
    )
    await _appends(MessageChanged(message, run_id=run.id, is_new=True))(desk, claim)
    ended = replace(message, status=MessageStatus.COMPLETED, content=[Part("Late.")])
    await _appends(MessageChanged(ended, run_id=run.id))(desk, claim)


async def _end_the_run(desk: Desk, claim: Claim) -> None:
    for status in RunStatus:
        await _appends(RunChanged(replace(claim.run, status=status)))(desk, claim)


async def _count_an_attempt(desk: Desk, claim: Claim) -> None:
    counter = AttemptCounter(desk.database, "worker_a", claim, 3)
    with pytest.raises(FencedError):
        await counter.count()


async def _open_a_thread(desk: Desk, claim: Claim) -> None:
    async with desk.database.autocommit() as uow:
        assert not await uow.queue.open_thread(claim, Thread(f"conv_{claim.run.id}", 1, None))
    retired = "SELECT retired_at IS NOT NULL FROM upstream_threads WHERE thread_id = $1"
    # It is there upstream, and nobody's: it is deleted there.
    assert await desk.value(retired, f"conv_{claim.run.id}")


async def _renew_its_lease(desk: Desk, claim: Claim) -> None:
    assert claim.run.id not in await desk.queue("worker_a").heartbeat([claim.run.id])


async def _hand_it_over(desk: Desk, claim: Claim) -> None:
    assert await desk.queue("worker_a").hand_over([claim.run.id]) == 0


async def _ask_the_upstream(desk: Desk, claim: Claim) -> None:
    # There is no upstream here to be asked.
    for thread in (claim.thread, Thread("conv_1", 0, None)):
        known = replace(claim, thread=thread)
        asking = Conversation(desk.database, None, known)  # type: ignore[arg-type]
        with pytest.raises(FencedError):
            await asking.prepare()


DEEDS: dict[str, Callable[[Desk, Claim], Awaitable[None]]] = {
    "more text": _appends(Delta("msg_1", "", 0, ["late"])),
    "a withdrawal": _appends(Withdrawal("msg_1", "", 0, "resumed")),
    "a step": _appends(a_step("")),
    "the upstream's name of a generation": _appends(
        Delta("msg_1", "", 0, ["late"]), response_id="resp_late"
    ),
    "what the thread holds": _appends(thread=ThreadMark("conv_late", 9, "item_late")),
    "that the thread is lost": _appends(thread=ThreadMark(None, 0, None)),
    "an answer": _open_an_answer,
    "an end": _end_the_run,
    "an attempt": _count_an_attempt,
    "a thread": _open_a_thread,
    "a heartbeat": _renew_its_lease,
    "a hand-over": _hand_it_over,
    "a generation": _ask_the_upstream,
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("loss", LOSSES)
async def test_a_worker_that_lost_its_run_changes_nothing(
    desk: Desk, loss: str, deed: str
) -> None:
    user, session = await desk.session()
    await desk.waiting(user, session)
    (claim,) = await desk.queue("worker_a").claim(1)
    await LOSSES[loss](desk, user, claim)
    before = await rows_of(desk, session)
    await DEEDS[deed](desk, claim)
    assert await rows_of(desk, session) == before


@pytest.mark.parametrize("deed", ["more text", "an attempt", "a heartbeat", "a thread"])
async def test_the_same_is_done_by_who_still_has_it(desk: Desk, deed: str) -> None:
    user, session = await desk.session()
    await desk.waiting(user, session)
    (claim,) = await desk.queue("worker_a").claim(1)
    before = await rows_of(desk, session)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await DEEDS[deed](desk, claim)
    assert await rows_of(desk, session) != before


async def test_a_worker_that_was_frozen_while_it_read_asks_again_whose_the_run_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, session = await desk.session()
    await desk.waiting(user, session)
    (claim,) = await desk.queue("worker_a").claim(1)
    known = replace(claim, thread=Thread("conv_1", 0, None))
    asking = Conversation(desk.database, None, known)  # type: ignore[arg-type]
    read = asking._read  # noqa: SLF001 - where the freeze is to fall

    async def freeze_after(turn: int) -> Any:
        found = await read(turn)
        if claim.run.id not in lost:
            lost.append(claim.run.id)
            await _taken_over(desk, user, claim)
        return found

    lost: list[str] = []
    monkeypatch.setattr(asking, "_read", freeze_after)
    monkeypatch.setattr(conversation, "FRESH_S", 0)
    with pytest.raises(FencedError):
        await asking.prepare()


async def test_the_worker_of_a_deleted_session_hangs_up_at_once(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    await shared.admin("POST", "pace", {"tokens_per_second": 0.01, "text": session})
    before = (await shared.admin("GET", "stats"))["open_streams"]
    await client.post(session, f"2x + 3 = 11 ({session})")

    async def streams_open(count: int) -> bool:
        return bool((await shared.admin("GET", "stats"))["open_streams"] == before + count)

    await until(lambda: streams_open(1))
    # Its next word is a minute and more away, a heartbeat ten seconds.
    await client.call("DELETE", f"/v1/sessions/{session}", 204)
    await until(lambda: streams_open(0), within=8)
