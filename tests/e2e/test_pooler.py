"""Behind pgbouncer in transaction mode, with and without a way past it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import httpx2
import pytest

from app.adapters.postgres.database import PostgresDatabase
from app.adapters.postgres.pooler import is_pooled
from tests.conftest import NewDatabase
from tests.e2e.crew import (
    QUESTION,
    WORD,
    all_end,
    ask_at_once,
    follow,
    hire,
    started,
    under_way,
)
from tests.e2e.invariants import check, check_logs, check_reader
from tests.integration.test_schema import environment, run_command
from tests.pooler import Pooler, needs_pgbouncer, pooler_before
from tests.stack import Block, Stack, ends_with_done, until

pytestmark = needs_pgbouncer
RUNS = 12
LISTENING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tutor-relay-listen'
"""
OF_THE_POOLER = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tutor-relay'
"""


@pytest.fixture(scope="module", params=["with a way past it", "alone"])
def has_way(request: pytest.FixtureRequest) -> bool:
    return bool(request.param != "alone")


@pytest.fixture(scope="module")
async def direct_url(has_way: bool, new_database: NewDatabase) -> str:  # noqa: FBT001 - a fixture
    assert has_way in {True, False}
    return await new_database()


@pytest.fixture(scope="module")
def pooler(direct_url: str) -> Iterator[Pooler]:
    with pooler_before(direct_url) as found:
        yield found


@pytest.fixture(scope="module")
async def stack(
    pooler: Pooler,
    direct_url: str,
    has_way: bool,  # noqa: FBT001 - a fixture
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stack]:
    """Two API processes and two workers behind the pooler; the test itself looks past it."""
    env = {"DATABASE_URL": pooler.url, "RUN_LEASE_S": "2"}
    if has_way:
        env["DATABASE_DIRECT_URL"] = direct_url
    folder = tmp_path_factory.mktemp("pooled")
    async with started(direct_url, folder, apis=2, pace=60, **env) as made:
        await hire(made)
        await hire(made)
        yield made


@pytest.fixture(autouse=True)
async def sound(stack: Stack) -> AsyncIterator[None]:
    yield
    await check(stack.database_url)
    check_logs(stack.logs(), WORD)


def two_answers(blocks: Sequence[Block]) -> bool:
    return [block.event for block in blocks].count("run.completed") == 2


async def test_a_dialogue_is_answered_streamed_and_replayed(
    stack: Stack,
    has_way: bool,  # noqa: FBT001 - a fixture
) -> None:
    alice = stack.client()
    elsewhere = stack.client(at=1, user=alice.user)
    session = await alice.open_session()
    path = f"/v1/sessions/{session}"
    watched = asyncio.create_task(
        follow(f"{path}/events?after=0", elsewhere, alice, is_over=two_answers)
    )
    body, headers = {"content": QUESTION}, {"Idempotency-Key": "k1"}
    posted = await alice.call("POST", f"{path}/messages", 202, json=body, headers=headers)
    again = await elsewhere.call("POST", f"{path}/messages", 202, json=body, headers=headers)
    assert again == posted
    told = await alice.stream(f"{path}/runs/{posted['run']['id']}/events")
    assert ends_with_done(told)
    run, text = await alice.ask(session, "Please explain that in more detail.")
    assert run["status"] == "completed"
    assert "241" in text
    await check_reader(stack.database_url, session, await watched)
    ticket = (await alice.call("POST", f"{path}/stream_tickets", 201))["ticket"]
    async with httpx2.AsyncClient(base_url=stack.api_urls[1]) as browser:
        path = f"{path}/runs/{run['id']}/events"
        assert "run.completed" in (await browser.get(path, params={"ticket": ticket})).text
    # Without a way past the pooler nobody listens: what is told would reach somebody else.
    assert await stack.fetchval(LISTENING) == (4 if has_way else 0)


async def test_many_runs_at_once_mix_up_nothing_on_few_connections(stack: Stack) -> None:
    asked = await ask_at_once(stack, RUNS)
    readers = [asyncio.create_task(follow(each.events, each.client)) for each in asked]
    rows = await all_end(stack, asked)
    assert {(row["status"], row["attempts"]) for row in rows} == {("completed", 1)}
    for each, blocks in zip(asked, await asyncio.gather(*readers), strict=True):
        await check_reader(stack.database_url, each.session, blocks)


async def test_a_run_is_cancelled(stack: Stack) -> None:
    (asked,) = await ask_at_once(stack, 1)
    await under_way(stack, [asked])
    path = f"/v1/sessions/{asked.session}/runs/{asked.run}/cancel"
    await asked.client.call("POST", path, 202)
    run = await asked.client.ended(asked.session, asked.run, within=20)
    assert run["status"] == "cancelled"


async def test_runs_of_a_killed_worker_are_completed_by_another(stack: Stack) -> None:
    asked = await ask_at_once(stack, RUNS)
    await under_way(stack, asked)
    victim = next(each for each in stack.processes if each.command == ["worker"])
    victim.kill()
    await hire(stack)
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"completed"}
    stack.processes.remove(victim)


async def test_the_poolers_connections_are_cut_and_it_is_killed_itself(
    stack: Stack, pooler: Pooler
) -> None:
    asked = await ask_at_once(stack, RUNS)
    readers = [asyncio.create_task(follow(each.events, each.client)) for each in asked]
    await under_way(stack, asked)
    for _ in range(5):
        await stack.fetch(OF_THE_POOLER)
        await asyncio.sleep(0.2)
    pooler.kill()
    response = await asked[0].client.http.get("/readyz")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    pooler.start()

    async def is_ready() -> bool:
        return (await asked[0].client.http.get("/readyz")).status_code == 200

    await until(is_ready)
    rows = await all_end(stack, asked)
    assert {(row["status"], row["attempts"]) for row in rows} == {("completed", 1)}
    for each, blocks in zip(asked, await asyncio.gather(*readers), strict=True):
        await check_reader(stack.database_url, each.session, blocks)


async def test_settings_hold_for_a_transaction_and_are_left_to_nobody(
    stack: Stack, pooler: Pooler
) -> None:
    assert await is_pooled(pooler.url)
    assert not await is_pooled(stack.database_url)
    database = PostgresDatabase(pooler.url, pool_size=2)
    try:
        async with database._connection() as (_, driver), database._begun(driver):  # noqa: SLF001
            assert await driver.fetchval("SHOW statement_timeout") == "30s"
            assert await driver.fetchval("SHOW idle_in_transaction_session_timeout") == "15s"
    finally:
        await database.aclose()
    for _ in range(8):
        stranger = await asyncpg.connect(pooler.url, statement_cache_size=0)
        async with stranger.transaction():
            assert await stranger.fetchval("SHOW statement_timeout") == "0"
            assert await stranger.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
        await stranger.close()


async def test_migrations_need_a_way_past_it(stack: Stack, pooler: Pooler, tmp_path: Path) -> None:
    alone = environment(pooler.url, tmp_path)
    code, out = await run_command("migrate", alone)
    assert code == 2
    assert "DATABASE_DIRECT_URL" in out
    code, out = await run_command("migrate", alone | {"DATABASE_DIRECT_URL": stack.database_url})
    assert code == 0, out
