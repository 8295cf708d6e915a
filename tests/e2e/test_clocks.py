"""Processes whose clocks are wrong by minutes: nobody can tell, but from a token's `exp`."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NewDatabase
from tests.e2e.crew import QUESTION, WORD, all_end, ask_at_once, follow, hire, started, under_way
from tests.e2e.invariants import check, check_logs
from tests.stack import Client, Stack, until

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
MINUTES = 9
LEASE_S = 2
SKEW_S = 20
"""Far less than the clocks are wrong by, and than any test takes."""


def wrong_by(minutes: int) -> dict[str, str]:
    """Return the environment of a process whose wall clock is wrong, and no other clock."""
    return {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": f"{minutes:+d}m",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def jumping(clock: Path) -> dict[str, str]:
    """Return the environment of a process whose wall clock is what a file says."""
    clock.write_text("+0m\n")
    changes = {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    found = wrong_by(0) | changes
    del found["FAKETIME"]
    return found


async def jump(clock: Path) -> None:
    """Set the clock, again and again, as a careless administrator does."""
    while True:
        for minutes in (MINUTES, -MINUTES, 0):
            draft = clock.with_suffix(".draft")
            draft.write_text(f"{minutes:+d}m\n")
            draft.rename(clock)
            await asyncio.sleep(0.3)


@pytest.fixture(autouse=True, scope="module")
def library() -> Path:
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed")
    return LIBRARIES[0]


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """An API process behind, one ahead, a worker behind, and one ahead."""
    url, folder = await new_database(), tmp_path_factory.mktemp("clocks")
    async with started(url, folder, apis=0, pace=40, RUN_LEASE_S=str(LEASE_S)) as stack:
        for minutes in (-MINUTES, MINUTES):
            await stack.start_api(**wrong_by(minutes))
            await hire(stack, **wrong_by(minutes))
        yield stack
        await check(url)
        check_logs(stack.logs(), WORD)


def both(stack: Stack, **claims: Any) -> tuple[Client, Client]:
    behind = stack.client(at=0, **claims)
    return behind, stack.client(at=1, user=behind.user, **claims)


def instants(value: Any) -> list[datetime]:
    """Return every instant in an answer."""
    if isinstance(value, dict):
        own = [text for name, text in value.items() if name.endswith("_at") and text]
        nested = [each for inner in value.values() for each in instants(inner)]
        return [datetime.fromisoformat(text) for text in own] + nested
    if isinstance(value, list):
        return [each for inner in value for each in instants(inner)]
    return []


async def test_the_clocks_are_wrong(stack: Stack) -> None:
    for minutes in (-MINUTES, MINUTES):
        told = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import datetime, time; print(time.time(), time.monotonic());"
            "print(datetime.datetime.now(datetime.timezone.utc).timestamp())",
            env=stack.env(**wrong_by(minutes)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await told.communicate()
        wall, monotonic, also = map(float, out.split())
        assert wall - time.time() == pytest.approx(60 * minutes, abs=SKEW_S)
        assert also - wall == pytest.approx(0, abs=SKEW_S)
        assert monotonic - time.monotonic() == pytest.approx(0, abs=SKEW_S)


async def test_every_instant_that_is_told_is_the_databases(stack: Stack) -> None:
    now = time.time()
    for client, other in (both(stack), both(stack)[::-1]):
        session = await client.open_session()
        posted = await client.post(session, QUESTION)
        run = await other.ended(session, posted["run"]["id"])
        assert run["status"] == "completed"
        path = f"/v1/sessions/{session}"
        told = [
            posted,
            run,
            await other.call("GET", path, 200),
            await client.call("GET", f"{path}/messages", 200),
            await client.call("POST", f"{path}/stream_tickets", 201),
        ]
        for each in told:
            found = [instant.timestamp() for instant in instants(each)]
            assert found
            assert now - SKEW_S < min(found), each
            # A ticket is to be used within a minute.
            assert max(found) < time.time() + 60 + SKEW_S, each


async def test_fresh_tokens_are_good_everywhere(stack: Stack) -> None:
    now = int(time.time())
    for client in both(stack, iat=now):
        assert (await client.call("GET", "/v1/me", 200))["object"] == "user"


async def test_leases_run_out_when_they_should_and_not_before(stack: Stack) -> None:
    asked = await ask_at_once(stack, 8)
    await under_way(stack, asked)
    # For longer than a lease, all the workers see each other's runs.
    rows = await all_end(stack, asked)
    assert {(row["status"], row["attempts"]) for row in rows} == {("completed", 1)}
    assert len({row["worker_id"] for row in rows}) <= 2

    asked = await ask_at_once(stack, 8)
    await under_way(stack, asked)
    victim = next(each for each in stack.processes if each.command == ["worker"])
    held = {row["id"] for row in await holders(stack, asked)}
    victim.kill()
    await hire(stack, **wrong_by(-MINUTES))
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"completed"}
    assert {row["attempts"] for row in rows} <= {1, 2}
    assert held == {row["id"] for row in rows}


async def holders(stack: Stack, asked: Any) -> list[Any]:
    query = "SELECT id, worker_id FROM runs WHERE id = ANY($1)"
    return await stack.fetch(query, [each.run for each in asked])


async def test_tickets_keys_and_cancels_work_between_processes_that_disagree(
    stack: Stack,
) -> None:
    behind, ahead = both(stack)
    for client, other in ((behind, ahead), (ahead, behind)):
        session = await client.open_session()
        path = f"/v1/sessions/{session}"
        key = {"Idempotency-Key": f"key-{session}"}
        body = {"content": QUESTION}
        first = await client.call("POST", f"{path}/messages", 202, json=body, headers=key)
        again = await other.call("POST", f"{path}/messages", 202, json=body, headers=key)
        assert again == first
        ticket = (await client.call("POST", f"{path}/stream_tickets", 201))["ticket"]
        run = first["run"]["id"]
        url = str(other.http.base_url) + f"{path}/runs/{run}/events"
        bare = Client(str(other.http.base_url), "nobody")
        stack.clients.append(bare)
        del bare.http.headers["Authorization"]
        blocks = await follow(f"{path}/runs/{run}/events", client)
        got = await bare.http.get(url, params={"ticket": ticket})
        assert got.status_code == 200
        assert got.text.count("\nevent: ") >= len(blocks) - 1
        posted = await other.post(session, QUESTION)
        await client.call("POST", f"{path}/runs/{posted['run']['id']}/cancel", 202)
        assert (await other.ended(session, posted["run"]["id"]))["status"] == "cancelled"


async def test_what_is_young_is_neither_expired_nor_pruned_nor_forgotten(stack: Stack) -> None:
    client, other = both(stack)
    session = await client.open_session()
    run, _ = await client.ask(session, QUESTION)
    deltas = "SELECT count(*) FROM events WHERE run_id = $1 AND type = 'message.delta'"
    before = await stack.fetchval(deltas, run["id"])
    assert before > 0

    async def sees_workers() -> bool:
        found = await other.call("GET", "/readyz", 200)
        return bool(found["workers"] >= 2)

    await until(sees_workers)
    swept = "SELECT count(*) FROM workers WHERE seen_at > now() - interval '20 seconds'"
    assert await stack.fetchval(swept) >= 2
    assert await stack.fetchval(deltas, run["id"]) == before
    at = await stack.fetchval("SELECT max(seen_at) FROM workers")
    assert abs((datetime.now(UTC) - at).total_seconds()) < SKEW_S


async def test_a_clock_that_jumps_back_and_forth_changes_nothing(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    url, clock = await new_database(), tmp_path / "clock"
    async with started(url, tmp_path / "stack", apis=0, pace=40, RUN_LEASE_S="5") as stack:
        await stack.start_api(**jumping(clock))
        for _ in range(2):
            await hire(stack, **jumping(clock))
        restless = asyncio.create_task(jump(clock))
        asked = await ask_at_once(stack, 8)
        readers = [asyncio.create_task(follow(each.events, each.client)) for each in asked]
        rows = await all_end(stack, asked)
        seen = await asyncio.gather(*readers)
        restless.cancel()
        assert {(row["status"], row["attempts"]) for row in rows} == {("completed", 1)}
        for blocks in seen:
            told = [datetime.fromisoformat(json.loads(block.data)["at"]) for block in blocks]
            assert told == sorted(told)
            assert (told[-1] - told[0]).total_seconds() < 60
        await check(url)
        check_logs(stack.logs(), WORD)
