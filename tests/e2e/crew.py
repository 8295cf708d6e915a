"""What the end-to-end tests share: quicker starts, readers that come back, workers by name."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.stack import Block, Client, Process, Stack, blocks_of, free_port, until

QUESTION = "Please solve 3x**2 + 11x - 10 = 0 step by step, says canary4711."
WORD = "canary4711"


@asynccontextmanager
async def started(
    database_url: str, folder: Path, *, apis: int = 1, pace: float = 0, **env: str
) -> AsyncIterator[Stack]:
    """Start a sandbox and API processes side by side; workers are the test's own affair."""
    stack = Stack(database_url, folder, **env)
    stack.sandbox_port = free_port()
    try:
        await asyncio.gather(
            stack.start_sandbox(pace=pace), *(stack.start_api() for _ in range(apis))
        )
        yield stack
    finally:
        await stack.close()


@dataclass
class Hand:
    """A worker process, and the name that it has in the database."""

    process: Process
    id: str


async def hire(stack: Stack, **env: str) -> Hand:
    """Start a worker."""
    before = {row["id"] for row in await stack.fetch("SELECT id FROM workers")}
    process = await stack.start_worker(**env)
    after = {row["id"] for row in await stack.fetch("SELECT id FROM workers")}
    (name,) = after - before
    return Hand(process, name)


@dataclass
class Asked:
    """A question that was accepted."""

    client: Client
    session: str
    run: str

    @property
    def events(self) -> str:
        """Where its run can be followed."""
        return f"/v1/sessions/{self.session}/runs/{self.run}/events"


async def ask_at_once(
    stack: Stack, count: int, *, at: int = 0, users: int = 5, question: str = QUESTION
) -> list[Asked]:
    """Post questions in sessions of their own."""
    clients = [stack.client(at=at) for _ in range(min(users, count))]
    chosen = [clients[index % len(clients)] for index in range(count)]
    sessions = await asyncio.gather(*(client.open_session() for client in chosen))
    posted = await asyncio.gather(
        *(client.post(session, question) for client, session in zip(chosen, sessions, strict=True))
    )
    return [
        Asked(client, session, each["run"]["id"])
        for client, session, each in zip(chosen, sessions, posted, strict=True)
    ]


async def under_way(stack: Stack, asked: Sequence[Asked], *, deltas: int = 3) -> None:
    """Wait until each of the answers can be read in part."""
    query = """
    SELECT count(*) FROM (
        SELECT FROM events WHERE run_id = ANY($1) AND type = 'message.delta'
        GROUP BY run_id HAVING count(*) >= $2) r
    """

    async def all_show() -> bool:
        found = await stack.fetchval(query, [each.run for each in asked], deltas)
        return bool(found == len(asked))

    await until(all_show, within=40)


async def all_end(stack: Stack, asked: Sequence[Asked], *, within: float = 60) -> list[Any]:
    """Wait until every run has ended; return their rows."""
    query = "SELECT * FROM runs WHERE id = ANY($1) AND ended_at IS NOT NULL"

    async def ended() -> Any:
        rows = await stack.fetch(query, [each.run for each in asked])
        return rows if len(rows) == len(asked) else None

    return list(await until(ended, within=within))


def run_ended(blocks: Sequence[Block]) -> bool:
    """Tell whether the last block of a session's stream ends a run."""
    last = blocks[-1].event if blocks else ""
    return last in {"run.completed", "run.failed", "run.incomplete", "run.expired"}


async def follow(
    path: str,
    *clients: Client,
    is_over: Callable[[Sequence[Block]], bool] = lambda _: False,
    within: float = 60,
) -> list[Block]:
    """Read as an EventSource does: come back after every end, elsewhere, until `done`."""
    seen: list[Block] = []
    turn = 0
    async with asyncio.timeout(within):
        while True:
            client = clients[turn % len(clients)]
            turn += 1
            try:
                if await _read(client, path, seen, is_over):
                    return seen
            except httpx2.TransportError:
                pass
            await asyncio.sleep(0.1)


async def _read(
    client: Client, path: str, seen: list[Block], is_over: Callable[[Sequence[Block]], bool]
) -> bool:
    last = seen[-1].id if seen else None
    headers = {"Last-Event-ID": last} if last else {}
    pending = b""
    async with client.http.stream("GET", path, headers=headers) as response:
        if response.status_code == 204:
            return True
        assert response.status_code == 200, await response.aread()
        async for chunk in response.aiter_bytes():
            whole, cut, pending = (pending + chunk).rpartition(b"\n\n")
            for block in blocks_of((whole + cut).decode()):
                if block.event == "done":
                    return True
                seen.append(block)
                if is_over(seen):
                    return True
    return False
