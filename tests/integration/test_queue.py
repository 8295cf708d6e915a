"""The queue: each run goes to one worker, in its session's order, for as long as it is held."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.domain.events import Delta, MessageChanged, RunChanged
from app.domain.models import Message, MessageStatus, Part, Role, Run, RunStatus, ToolCall, User
from app.ports import Append, Claim, Thread, ThreadMark
from app.services.actions import ActionService, ToolOutput
from app.services.queue import QueueService
from app.services.runs import OnActiveRun
from tests.conftest import NewDatabase
from tests.integration.test_log import Desk, a_step, desk_on

LONG_AGO = "UPDATE runs SET lease_expires_at = now() - interval '1 second' WHERE id = $1"
# A young server reaps nobody; a lease shorter than its age is needed to see that it reaps.
SHORT = timedelta(milliseconds=100)


@pytest.fixture(scope="module")
async def own_database(new_database: NewDatabase) -> str:
    return await new_database()


@pytest.fixture
async def desk(own_database: str) -> AsyncIterator[Desk]:
    async with desk_on(own_database) as found:
        # What other tests left is out of the queue.
        await found.execute("UPDATE sessions SET deleted_at = now()")
        yield found


async def end(desk: Desk, claim: Claim, status: RunStatus = RunStatus.COMPLETED) -> None:
    run = claim.run
    ended = RunChanged(replace(run, status=status))
    append = Append(run.session_id, [ended], run_id=run.id, fence=claim.fence)
    assert not await desk.append(append)


async def running(desk: Desk, queue: QueueService) -> tuple[User, Claim]:
    user, session = await desk.session()
    await desk.waiting(user, session)
    (claim,) = await queue.claim(1)
    return user, claim


async def test_concurrent_claimers_share_the_runs_and_none_goes_to_two(desk: Desk) -> None:
    user = await desk.user()
    waiting: set[str] = set()
    for _ in range(60):
        _, session = await desk.session(user)
        waiting.add((await desk.waiting(user, session)).id)
    taken: Counter[str] = Counter()

    async def work(number: int) -> None:
        queue = desk.queue(f"worker_{number}")
        while claims := await queue.claim(4):
            taken.update(claim.run.id for claim in claims)

    await asyncio.gather(*(work(number) for number in range(12)))
    assert taken == Counter(waiting), "each once"
    active = """SELECT count(*) FROM runs
        WHERE user_id = $1 AND status = 'in_progress' AND attempts = 1"""
    assert await desk.value(active, user.id) == 60


async def test_a_claim_never_waits_for_what_another_has_locked(desk: Desk) -> None:
    user = await desk.user()
    first, second = [(await desk.session(user))[1] for _ in range(2)]
    oldest = await desk.waiting(user, first)
    other = await desk.waiting(user, second)
    async with desk.database.transaction() as uow:
        (held,) = await uow.queue.lease_queued("worker_a", lease=SHORT, lifetime=SHORT, limit=1)
        assert held.run.id == oldest.id
        async with asyncio.timeout(2):
            (claim,) = await desk.queue("worker_b").claim(10)
        assert claim.run.id == other.id


async def test_a_session_has_one_active_run_and_the_others_keep_their_order(desk: Desk) -> None:
    user, session = await desk.session()
    posted = [(await desk.waiting(user, session)).id for _ in range(5)]
    queue = desk.queue("worker_a")
    done: list[str] = []
    while len(done) < 5:
        many = await asyncio.gather(*(desk.queue(f"worker_{n}").claim(10) for n in range(4)))
        claims = [claim for claims in many for claim in claims]
        assert len(claims) == 1, "one at a time"
        assert not await queue.claim(10)
        (claim,) = claims
        done.append(claim.run.id)
        await end(desk, claim, [*RunStatus][5 + len(done) % 3])
    assert done == posted


async def test_a_cancelled_run_leaves_its_place_to_the_next(desk: Desk) -> None:
    user, session = await desk.session()
    runs = [await desk.waiting(user, session) for _ in range(3)]
    assert (await desk.runs.cancel(user, session, runs[0].id)).status is RunStatus.CANCELLED
    (claim,) = await desk.queue("worker_a").claim(10)
    assert claim.run.id == runs[1].id
    assert (await desk.runs.cancel(user, session, claim.run.id)).status is RunStatus.CANCELLING
    assert not await desk.queue("worker_a").claim(10)
    await end(desk, claim, RunStatus.CANCELLED)
    (claim,) = await desk.queue("worker_a").claim(10)
    assert claim.run.id == runs[2].id


async def test_the_oldest_runs_are_claimed_first_and_no_more_than_asked_for(desk: Desk) -> None:
    user = await desk.user()
    waiting = []
    for _ in range(6):
        _, session = await desk.session(user)
        waiting.append((await desk.waiting(user, session)).id)
    queue = desk.queue("worker_a")
    assert [claim.run.id for claim in await queue.claim(4)] == waiting[:4]
    assert [claim.run.id for claim in await queue.claim(4)] == waiting[4:]
    assert not await queue.claim(4)


async def test_the_first_claim_starts_the_clock_and_raises_the_fence(desk: Desk) -> None:
    user, session = await desk.session()
    posted = await desk.waiting(user, session)
    (claim,) = await desk.queue("worker_a").claim(1)
    assert not claim.is_takeover
    run = await desk.runs.get(user, session, posted.id)
    assert run == claim.run
    assert run.started_at is not None
    assert run.expires_at == run.started_at + timedelta(hours=1)
    assert run.attempts == 1
    fence = "SELECT fence FROM sessions WHERE id = $1"
    assert await desk.value(fence, session) == claim.fence == 1
    lease = "SELECT lease_expires_at - now() FROM runs WHERE id = $1"
    assert timedelta(seconds=20) < await desk.value(lease, posted.id) <= timedelta(seconds=30)


async def test_deleted_sessions_are_neither_claimed_nor_taken_over(desk: Desk) -> None:
    queue = desk.queue("worker_a", lease=SHORT)
    user, claim = await running(desk, queue)
    _, waiting = await desk.session(user)
    await desk.waiting(user, waiting)
    for session in (claim.run.session_id, waiting):
        await desk.sessions.delete(user, session)
    await desk.execute(LONG_AGO, claim.run.id)
    assert not await queue.claim(10)
    assert not await queue.take_over(10, reap=True, held=[])


async def test_a_silent_holder_is_followed_by_one_other_and_by_none_before_its_time(
    desk: Desk,
) -> None:
    holder = desk.queue("worker_a", lease=SHORT)
    _, claim = await running(desk, holder)
    run_id = claim.run.id
    later = "UPDATE runs SET lease_expires_at = now() + interval '1 hour' WHERE id = $1"
    await desk.execute(later, run_id)
    others = [desk.queue(f"worker_{n}", lease=SHORT) for n in range(8)]
    assert not await others[0].take_over(10, reap=True, held=[])
    await desk.execute(LONG_AGO, run_id)
    assert not await others[0].take_over(10, reap=False, held=[]), "not without being told to"
    assert not await others[0].take_over(10, reap=True, held=[run_id]), "not its own"
    young = desk.queue("worker_young", lease=timedelta(days=1))
    assert not await young.take_over(10, reap=True, held=[]), (
        "not while Postgres is back too short"
    )

    found = await asyncio.gather(*(queue.take_over(10, reap=True, held=[]) for queue in others))
    (taken,) = [claim for claims in found for claim in claims]
    assert taken.run.id == run_id
    assert taken.is_takeover
    assert taken.fence == claim.fence + 1
    assert taken.handovers == 0
    assert taken.run.attempts == 1, "nothing was asked for yet"
    assert taken.run.started_at == claim.run.started_at
    assert timedelta(0) < taken.remaining < timedelta(hours=1)


async def test_a_lease_that_ran_out_is_renewed_by_its_holder_while_nobody_took_the_run(
    desk: Desk,
) -> None:
    holder = desk.queue("worker_a", lease=SHORT)
    _, claim = await running(desk, holder)
    run_id, session = claim.run.id, claim.run.session_id
    await desk.execute(LONG_AGO, run_id)
    patient = desk.queue("worker_a", lease=timedelta(hours=1))
    assert await patient.heartbeat([run_id]) == {run_id: RunStatus.IN_PROGRESS}
    other = desk.queue("worker_b", lease=SHORT)
    assert not await other.take_over(10, reap=True, held=[])
    mine = Append(
        session, [Delta("msg_none", run_id, 0, ["mine"])], run_id=run_id, fence=claim.fence
    )
    assert not await desk.append(mine)

    await desk.execute(LONG_AGO, run_id)
    (taken,) = await other.take_over(10, reap=True, held=[])
    assert await patient.heartbeat([run_id]) == {}, "it is another's now"
    assert await desk.append(mine) == [mine]
    async with desk.database.autocommit() as uow:
        assert await uow.queue.count_attempt(run_id, "worker_a") is None
        assert await uow.queue.count_attempt(run_id, "worker_b") == 2
    await end(desk, taken)
    assert await other.heartbeat([run_id]) == {}, "it has ended"


async def test_a_heartbeat_tells_of_a_cancel(desk: Desk) -> None:
    queue = desk.queue("worker_a")
    user, claim = await running(desk, queue)
    run_id = claim.run.id
    await desk.runs.cancel(user, claim.run.session_id, run_id)
    assert await queue.heartbeat([run_id, "run_unknown"]) == {run_id: RunStatus.CANCELLING}
    assert await queue.held([run_id, "run_unknown"]) == {run_id: RunStatus.CANCELLING}
    assert await desk.queue("worker_b").held([run_id]) == {}, "it is another's"


async def test_a_run_that_is_handed_over_is_free_at_once_and_costs_no_attempt(desk: Desk) -> None:
    holder = desk.queue("worker_a")
    _, claim = await running(desk, holder)
    run_id = claim.run.id
    stranger = desk.queue("worker_b")
    assert await stranger.hand_over([run_id]) == 0, "only the holder may"
    assert await holder.hand_over([run_id, "run_unknown"]) == 1
    assert await holder.hand_over([run_id]) == 0
    assert await holder.heartbeat([run_id]) == {}
    (taken,) = await stranger.take_over(10, reap=False, held=[])
    assert (taken.run.id, taken.handovers, taken.run.attempts) == (run_id, 1, 1)
    assert not await holder.take_over(10, reap=False, held=[])


async def test_a_run_that_comes_back_is_not_taken_by_whoever_has_not_noticed_its_loss(
    desk: Desk,
) -> None:
    sleeper = desk.queue("worker_sleeper", lease=SHORT)
    successor = desk.queue("worker_successor", lease=SHORT)
    _, claim = await running(desk, sleeper)
    run_id = claim.run.id
    await desk.execute(LONG_AGO, run_id)
    assert await successor.take_over(10, reap=True, held=[])
    assert await successor.hand_over([run_id]) == 1
    # It still executes it: a second execution beside the first would share its name.
    assert not await sleeper.take_over(10, reap=True, held=[run_id])
    assert await sleeper.heartbeat([run_id]) == {}, "now it knows"
    (taken,) = await sleeper.take_over(10, reap=True, held=[])
    assert taken.run.id == run_id


async def test_a_run_that_waited_too_long_expires_with_its_reason_and_the_next_goes_on(
    desk: Desk,
) -> None:
    user, session = await desk.session()
    first: Run = await desk.waiting(user, session)
    second = await desk.waiting(user, session)
    early = "UPDATE runs SET created_at = now() - interval '2 hours' WHERE id = $1"
    await desk.execute(early, first.id)
    queues = [desk.queue(f"worker_{number}") for number in range(4)]
    assert sum(await asyncio.gather(*(queue.expire_overdue() for queue in queues))) == 1
    run = await desk.runs.get(user, session, first.id)
    assert run.status is RunStatus.EXPIRED
    assert run.last_error is not None
    assert run.last_error.code == "queue_timeout"
    assert (await desk.events(session))[-1].type == "run.expired"
    (claim,) = await queues[0].claim(10)
    assert claim.run.id == second.id


async def spoken(desk: Desk, user: User, session: str) -> Run:
    """Return a run that waits for a function, after its tutor said something."""
    await desk.waiting(user, session)
    queue = desk.queue("worker_a")
    (claim,) = await queue.claim(1)
    message = Message(
        id=f"msg_of_{claim.run.id}",
        session_id=session,
        run_id=claim.run.id,
        role=Role.ASSISTANT,
        status=MessageStatus.IN_PROGRESS,
        content=(),
        metadata={},
        turn=claim.run.turn,
    )
    waits = replace(claim.run, status=RunStatus.REQUIRES_ACTION, output_message_id=message.id)
    drafts = [
        MessageChanged(message, run_id=claim.run.id, is_new=True),
        Delta(message.id, claim.run.id, 0, ["Let me "]),
        Delta(message.id, claim.run.id, 0, ["plot it."]),
        RunChanged(waits),
    ]
    append = Append(session, drafts, run_id=claim.run.id, fence=claim.fence)
    assert not await desk.append(append)
    return waits


@pytest.mark.parametrize("how", ["cancelled", "interrupted", "expired"])
async def test_what_a_tutor_said_before_it_waited_for_a_function_ends_with_the_run(
    desk: Desk, how: str
) -> None:
    user, session = await desk.session()
    run = await spoken(desk, user, session)
    if how == "cancelled":
        cancelled = await desk.runs.cancel(user, session, run.id)
        assert cancelled.status is RunStatus.CANCELLED
    elif how == "interrupted":
        await desk.runs.post(
            user,
            session,
            [Part("Something else?")],
            metadata={},
            wants_run=True,
            on_active_run=OnActiveRun.INTERRUPT,
        )
    else:
        await desk.execute("UPDATE runs SET expires_at = now() WHERE id = $1", run.id)
        assert await desk.queue("worker_a").expire_overdue() == 1
    told = await desk.runs.message(user, session, str(run.output_message_id))
    assert told.status is MessageStatus.INCOMPLETE
    assert [part.text for part in told.content] == ["Let me plot it."]
    assert (await desk.runs.get(user, session, run.id)).status.is_end
    own = [event.type for event in await desk.events(session) if event.run_id == run.id]
    status = "expired" if how == "expired" else "cancelled"
    assert own[-2:] == ["message.incomplete", f"run.{status}"]


async def test_a_run_whose_time_is_up_while_its_outputs_wait_expires(desk: Desk) -> None:
    user, session = await desk.session()
    run = await desk.waiting(user, session)
    queue = desk.queue("worker_a")
    (claim,) = await queue.claim(1)
    call = ToolCall("call_1", "plot", "{}")
    asks = RunChanged(replace(claim.run, status=RunStatus.REQUIRES_ACTION, tool_calls=(call,)))
    append = Append(session, [asks], run_id=run.id, fence=claim.fence)
    assert not await desk.append(append)
    relay: Any = None
    given = [ToolOutput("call_1", "Drawn.")]
    submitted = await ActionService(desk.database, relay).submit(user, session, run.id, given)
    assert (submitted.run.status, submitted.run.tool_calls) == (RunStatus.QUEUED, ())
    later = await desk.waiting(user, session)
    await desk.execute("UPDATE runs SET expires_at = now() WHERE id = $1", run.id)
    assert await queue.expire_overdue() == 1
    ended = await desk.runs.get(user, session, run.id)
    assert (ended.status, ended.last_error and ended.last_error.code) == (
        RunStatus.EXPIRED,
        "run_timeout",
    )
    # The session is free for what waits, in another thread.
    (after,) = await queue.claim(5)
    assert (after.run.id, after.thread.thread_id) == (later.id, None)


async def test_a_run_goes_on_with_its_outputs_before_what_waits_longer(desk: Desk) -> None:
    user, session = await desk.session()
    run = await desk.waiting(user, session)
    (claim,) = await desk.queue("worker_a").claim(1)
    call = ToolCall("call_1", "plot", "{}")
    asks = RunChanged(replace(claim.run, status=RunStatus.REQUIRES_ACTION, tool_calls=(call,)))
    mark = ThreadMark("conv_1", run.turn, "fc_1")
    append = Append(
        session, [asks], run_id=run.id, fence=claim.fence, response_id="resp_1", thread=mark
    )
    assert not await desk.append(append)
    later = await desk.waiting(user, session)
    queue = desk.queue("worker_b")
    assert await queue.claim(5) == []
    relay: Any = None
    given = [ToolOutput("call_1", "Drawn.")]
    await ActionService(desk.database, relay).submit(user, session, run.id, given)
    (resumed,) = await queue.claim(5)
    assert (resumed.run.id, resumed.run.attempts) == (run.id, 2)
    assert (resumed.is_takeover, resumed.response_id) == (False, None)
    assert resumed.thread == Thread("conv_1", run.turn, "fc_1")
    assert resumed.fence == claim.fence + 1
    assert resumed.run.expires_at == claim.run.expires_at
    late = Append(session, [a_step(session, run.id)], run_id=run.id, fence=claim.fence)
    assert await desk.append(late) == [late]
    assert await queue.claim(5) == []
    done = RunChanged(replace(resumed.run, status=RunStatus.COMPLETED))
    end = Append(session, [done], run_id=run.id, fence=resumed.fence)
    assert not await desk.append(end)
    assert [each.run.id for each in await queue.claim(5)] == [later.id]
