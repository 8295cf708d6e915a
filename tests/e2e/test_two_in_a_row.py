"""One instance relays to another: `UPSTREAM_API=assistants` at the face of a second one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NewDatabase
from tests.e2e.crew import WORD, Asked, all_end, hire, under_way
from tests.e2e.invariants import check, check_logs
from tests.e2e.test_dialogue import (
    FIRST,
    SECOND,
    WORDS,
    assert_both_roots,
    assert_explains,
    text_of,
)
from tests.stack import Client, Stack, free_port, token, until

LEASE = {"RUN_LEASE_S": "2"}
RELAY = "the-relay-before"


@dataclass
class Row:
    """The instance that students see, and the one behind it, with its one user."""

    front: Stack
    back: Stack
    relay: Client

    async def thread(self, session: str) -> str:
        """Return the session of the second that a session of the first is relayed to."""
        query = "SELECT upstream_thread_id FROM sessions WHERE id = $1"
        return str(await self.front.fetchval(query, session))

    async def transcripts(self, client: Client, session: str) -> tuple[list[str], list[str]]:
        """Return the texts of a conversation as the first has them, and as the second does."""
        seen = await _texts(client, session)
        return seen, await _texts(self.relay, await self.thread(session))


async def _texts(client: Client, session: str) -> list[str]:
    path = f"/v1/sessions/{session}/messages"
    listed = await client.call("GET", path, 200, params={"order": "asc", "limit": 100})
    return [text_of(message) for message in listed["data"]]


@asynccontextmanager
async def in_a_row(
    new_database: NewDatabase, folder: Path, *, pace: float = 0, **env: str
) -> AsyncIterator[Row]:
    """Start both, without workers."""
    back = Stack(await new_database(), folder / "back", **LEASE)
    back.sandbox_port = free_port()
    front = Stack(await new_database(), folder / "front", **LEASE, **env)
    try:
        await asyncio.gather(back.start_sandbox(pace=pace), back.start_api())
        front.settings |= {
            "UPSTREAM_API": "assistants",
            "OPENAI_BASE_URL": f"{back.api_urls[0]}/openai/v1",
            "OPENAI_API_KEY": token(RELAY),
        }
        await front.start_api()
        yield Row(front, back, back.client(user=RELAY))
    finally:
        await front.close()
        await back.close()


async def checked(row: Row, *words: str) -> None:
    """Check what both promise, and that neither's log tells of it."""
    await check(row.front.database_url)
    await check(row.back.database_url)
    check_logs(row.front.logs() + row.back.logs(), *words)


async def test_the_tutorials_dialogue_says_the_same_through_both(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    async with in_a_row(new_database, tmp_path, pace=300) as row:
        await asyncio.gather(hire(row.front), hire(row.back))
        client = row.front.client()
        session = await client.open_session()
        first_run, first = await client.ask(session, FIRST, within=60)
        second_run, second = await client.ask(session, SECOND, within=60)
        assert_both_roots(first)
        assert_explains(second)
        seen, behind = await row.transcripts(client, session)
        assert seen == behind == [FIRST, first, SECOND, second]
        behind_runs = await row.back.fetch("SELECT * FROM runs ORDER BY created_at")
        for run, other in zip([first_run, second_run], behind_runs, strict=True):
            assert run["attempts"] == other["attempts"] == 1
            assert run["status"] == other["status"] == "completed"
            assert run["usage"]["total_tokens"] > 0
        tutors = await row.front.fetch("SELECT * FROM upstream_tutors")
        assert len(tutors) == 1
        await checked(row, *WORDS)
