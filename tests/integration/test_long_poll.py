"""Long polls: an answer as soon as there is news, at any process, and else when time is up."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.integration.test_log import Desk, desk_on
from tests.stack import Client, Stack

QUICK_S = 4.0
"""Less than the poll behind a lost wake-up takes."""


class Waiting:
    """A session of which one run is stuck in progress and others wait behind it."""

    def __init__(self, stack: Stack, client: Client, session: str) -> None:
        self.stack, self.client, self.session = stack, client, session

    async def begin(self) -> str:
        text = {"tokens_per_second": 2, "text": self.session}
        await self.stack.admin("POST", "pace", text)
        posted = await self.client.post(self.session, f"2x + 3 = 11 을 풀어줘 ({self.session})")
        run_id = str(posted["run"]["id"])
        # A status that is known is left, or not: `in_progress` is what is waited for.
        run = await self.client.run(self.session, run_id, wait=30, known="queued")
        assert run["status"] == "in_progress"
        return run_id

    async def enqueue(self) -> str:
        posted = await self.client.post(self.session, "1 + 1?", on_active_run="enqueue")
        return str(posted["run"]["id"])

    async def cancel(self, run_id: str) -> None:
        path = f"/v1/sessions/{self.session}/runs/{run_id}/cancel"
        await self.client.call("POST", path, 202)


@pytest.fixture
async def waiting(shared: Stack) -> Waiting:
    client = shared.client()
    return Waiting(shared, client, await client.open_session())


@pytest.fixture
async def desk(shared: Stack) -> AsyncIterator[Desk]:
    async with desk_on(shared.database_url, pool_size=2) as found:
        yield found


async def timed(client: Client, session: str, run: str, **params: Any) -> tuple[Any, float]:
    started = time.monotonic()
    found = await client.run(session, run, **params)
    return found, time.monotonic() - started


async def test_a_status_other_than_the_known_one_is_told_at_once(waiting: Waiting) -> None:
    run_id = await waiting.begin()
    for known in ("queued", "cancelling", "completed", "requires_action"):
        run, took = await timed(waiting.client, waiting.session, run_id, wait=30, known=known)
        assert run["status"] == "in_progress"
        assert took < QUICK_S
    await waiting.cancel(run_id)


async def test_a_run_that_has_ended_is_told_at_once_whatever_is_known(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    run, _ = await client.ask(session, "What is 1 + 1?")
    params: list[dict[str, Any]] = [{}, {"known": "completed"}, {"known": "in_progress"}]
    for known in params:
        found, took = await timed(client, session, run["id"], wait=30, **known)
        assert found == run
        assert took < QUICK_S


async def test_a_change_is_told_when_it_happens_at_the_other_process_too(
    waiting: Waiting,
) -> None:
    run_id = await waiting.begin()
    queued = await waiting.enqueue()
    clients = [waiting.client, waiting.stack.client(at=1, user=waiting.client.user)]
    polls = [
        asyncio.create_task(timed(client, waiting.session, run, wait=60, **known))
        for client in clients
        for run, known in (
            (run_id, {"known": "in_progress"}),
            (run_id, {}),
            (queued, {"known": "queued"}),
        )
    ]
    done, _ = await asyncio.wait(polls, timeout=0.5)
    assert not done, "nothing has happened yet"
    started = time.monotonic()
    await waiting.cancel(run_id)
    statuses = [found["status"] for found, _ in await asyncio.gather(*polls)]
    assert time.monotonic() - started < QUICK_S
    for mine, _, waits in (statuses[:3], statuses[3:]):
        assert mine in {"cancelling", "cancelled"}
        assert waits in {"in_progress", "completed"}
    for client in clients:
        known = "cancelling"
        run, took = await timed(client, waiting.session, run_id, wait=30, known=known)
        assert run["status"] == "cancelled"
        assert took < QUICK_S


async def test_a_cancel_of_a_run_that_waits_is_told_at_once(waiting: Waiting) -> None:
    run_id = await waiting.begin()
    queued = await waiting.enqueue()
    other = waiting.stack.client(at=1, user=waiting.client.user)
    poll = asyncio.create_task(timed(other, waiting.session, queued, wait=60, known="queued"))
    done, _ = await asyncio.wait([poll], timeout=0.3)
    assert not done
    started = time.monotonic()
    await waiting.cancel(queued)
    run, _ = await poll
    assert run["status"] == "cancelled"
    assert time.monotonic() - started < QUICK_S
    await waiting.cancel(run_id)


async def test_without_news_the_same_status_is_told_when_time_is_up(waiting: Waiting) -> None:
    run_id = await waiting.begin()
    queued = await waiting.enqueue()
    for run, status in ((run_id, "in_progress"), (queued, "queued")):
        for known in ({"known": status}, {}):
            found, took = await timed(waiting.client, waiting.session, run, wait=0.5, **known)
            assert found["status"] == status
            assert 0.5 <= took < QUICK_S
    found, took = await timed(waiting.client, waiting.session, queued, known="queued")
    assert took < QUICK_S, "nobody asked to wait"
    for run in (run_id, queued):
        await waiting.cancel(run)


async def test_deltas_are_no_news_to_who_waits_for_a_status(waiting: Waiting, desk: Desk) -> None:
    run_id = await waiting.begin()
    poll = asyncio.create_task(
        timed(waiting.client, waiting.session, run_id, wait=1, known="in_progress")
    )
    before = len(await desk.events(waiting.session))
    found, took = await poll
    assert found["status"] == "in_progress"
    assert took >= 1
    assert len(await desk.events(waiting.session)) > before, "it was being written meanwhile"
    await waiting.cancel(run_id)


@pytest.mark.parametrize(
    "params",
    [
        {"wait": "-1"},
        {"wait": "61"},
        {"wait": "nan"},
        {"wait": "inf"},
        {"wait": "soon"},
        {"wait": ""},
        {"wait": "1", "known": "done"},
        {"wait": "1", "known": ""},
        {"known": "COMPLETED"},
        {"wait": "1", "known": "queued\x00"},
    ],
    ids=str,
)
async def test_what_can_t_be_waited_for_is_refused(shared: Stack, params: dict[str, str]) -> None:
    client = shared.client()
    session = await client.open_session()
    posted = await client.post(session, "What is 1 + 1?")
    path = f"/v1/sessions/{session}/runs/{posted['run']['id']}"
    response = await client.http.get(path, params=params)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


async def test_nobody_waits_for_what_is_not_theirs(waiting: Waiting) -> None:
    run_id = await waiting.begin()
    stranger = waiting.stack.client()
    own = await stranger.open_session()
    for session, run in ((waiting.session, run_id), (own, run_id), (own, "run_unknown")):
        started = time.monotonic()
        path = f"/v1/sessions/{session}/runs/{run}"
        response = await stranger.http.get(path, params={"wait": 30, "known": "in_progress"})
        assert response.status_code == 404
        assert time.monotonic() - started < QUICK_S
    await waiting.cancel(run_id)


async def test_many_wait_at_once_and_who_gives_up_is_forgotten(waiting: Waiting) -> None:
    run_id = await waiting.begin()
    other = waiting.stack.client(at=1, user=waiting.client.user)
    polls = [
        asyncio.create_task(
            timed((waiting.client, other)[n % 2], waiting.session, run_id, wait=60)
        )
        for n in range(40)
    ]
    path = f"/v1/sessions/{waiting.session}/runs/{run_id}"
    with pytest.raises(httpx2.ReadTimeout):
        await waiting.client.http.get(path, params={"wait": 60}, timeout=0.5)
    started = time.monotonic()
    await waiting.cancel(run_id)
    for run, _ in await asyncio.gather(*polls):
        assert run["status"] in {"cancelling", "cancelled"}
    assert time.monotonic() - started < QUICK_S
