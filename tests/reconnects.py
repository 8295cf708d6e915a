"""Thousands of random reconnects: whoever leaves at any byte ends with the uncut blocks.

`python -m tests.reconnects --count 10000` runs them on a database and processes of its own.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.adapters.postgres.embedded import temporary_postgres
from app.adapters.postgres.migrate import migrate
from tests.e2e.crew import WORD
from tests.e2e.invariants import check, check_logs, check_reader
from tests.stack import Block, Stack, done_after, running
from tests.tabs import Leave, Shown, Tab, Tally, Visit, shown, visit

QUESTIONS = (
    "Please solve 3x**2 + 11x - 10 = 0 step by step.",
    "2x + 3 = 11 을 단계별로 자세히 풀어줘 😀 \u2028 \u0085 줄\r\n\n바꿈",
    "Please integrate x**2 from 0 to 3, and explain every step.",
)
SESSIONS_AT_ONCE = 12
TABS_OF_A_SESSION = 4
TABS_OF_A_RUN = 2
TOKENS_PER_SECOND = 60


class Lesson:
    """One student's session, read by many tabs while it is being written."""

    def __init__(self, stack: Stack, chance: random.Random, tally: Tally) -> None:
        self.stack, self.chance, self.tally = stack, chance, tally
        self.client = stack.client(at=chance.randrange(2))
        self.last: str | None = None
        """The session's last event, once it is known."""
        self.reading: list[asyncio.Task[list[Block]]] = []
        self.runs: dict[str, list[asyncio.Task[list[Block]]]] = {}

    async def hold(self) -> None:
        """Ask, follow, and compare what everybody saw."""
        session = await self.client.open_session()
        self.session = f"/v1/sessions/{session}"
        path = f"{self.session}/events"
        rule = {"tokens_per_second": TOKENS_PER_SECOND, "text": session}
        await self.stack.admin("POST", "pace", rule)
        stayed = [asyncio.create_task(self._stay(url, path)) for url in self.stack.api_urls]
        self.reading = [self._open(path) for _ in range(TABS_OF_A_SESSION)]
        questions = self.chance.sample(QUESTIONS, 2)
        asking = [await self._ask(f"{question} {WORD} ({session})") for question in questions]
        for run in self.runs:
            ended = await self.client.ended(session, run, within=120)
            assert ended["status"] == "completed", ended
        self.last = str((await self.client.call("GET", self.session, 200))["last_seq"])
        uncut, other = await asyncio.gather(*stayed)
        told = shown(uncut)
        assert shown(uncut) == shown(other)
        await check_reader(self.stack.database_url, session, uncut)
        assert uncut[-1].id == self.last
        for tab in self.reading:
            seen = shown(await tab)
            assert seen == told, difference(seen, told)
            self.tally.blocks += len(uncut)
        for (run, tabs), asked in zip(self.runs.items(), asking, strict=True):
            await self._compare(run, [*tabs, asked], uncut)
        self.tally.uncut_streams += 2 + len(self.runs)
        await self.client.close()

    def _open(self, path: str, blocks: Sequence[Block] = ()) -> "asyncio.Task[list[Block]]":
        chance = random.Random(self.chance.random())  # noqa: S311 - a seeded choice of cuts
        tab = Tab(self.stack.api_urls, path, self.client.token, chance, self.tally, list(blocks))
        return asyncio.create_task(
            tab.read(lambda each: each.cursor is not None and each.cursor == self.last)
            if path.endswith(f"{self.session}/events")
            else tab.read(lambda _: False)
        )

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self.client.token}",
            "Accept": "text/event-stream",
        }

    async def _stay(self, url: str, path: str) -> list[Block]:
        def has_all(found: Visit) -> bool:
            end = f"id: {self.last}\n".encode()
            return self.last is not None and end in found.wire and found.body.endswith(b"\n\n")

        return (await visit(url, f"{path}?after=0", self._headers(), is_over=has_all)).blocks

    async def _ask(self, question: str) -> "asyncio.Task[list[Block]]":
        """Post, be cut somewhere in the answer's stream, and go on as a tab of the run."""
        known = set(self.runs)
        leave = Leave(self.chance.choice([1, 40, 300, 900, 4000]), by_reset=True)
        body = json.dumps({"content": question, "on_active_run": "enqueue"}).encode()
        url = self.chance.choice(self.stack.api_urls)
        found = await visit(url, f"{self.session}/messages", self._headers(), leave, body=body)
        assert found.status in {None, 200}, found.wire
        listed = await self.client.call("GET", f"{self.session}/runs", 200)
        (run,) = {each["id"] for each in listed["data"]} - known
        path = f"{self.session}/runs/{run}/events"
        self.runs[run] = [self._open(path) for _ in range(TABS_OF_A_RUN)]
        return self._open(path, found.blocks)

    async def _compare(
        self, run: str, tabs: Sequence["asyncio.Task[list[Block]]"], session: Sequence[Block]
    ) -> None:
        path = f"{self.session}/runs/{run}/events"
        url = self.chance.choice(self.stack.api_urls)
        uncut = shown((await visit(url, path, self._headers())).blocks)
        assert uncut[-1] == (None, "done", done_after(uncut[-2][2]))
        told = shown(session)
        assert [each for each in told if each in uncut] == uncut[:-1]
        for tab in tabs:
            seen = shown(await tab)
            # Who left with the last event before `done` is told by 204.
            assert seen in (uncut, uncut[:-1]), difference(seen, uncut)
            self.tally.blocks += len(seen)


def difference(seen: Sequence[Shown], told: Sequence[Shown]) -> str:
    """Say where a reader was first shown something else, without what it was."""
    same = 0
    while same < min(len(seen), len(told)) and seen[same] == told[same]:
        same += 1
    parts = [
        [block[:2] for block in blocks[max(0, same - 2) : same + 3]] for blocks in (seen, told)
    ]
    return f"{len(seen)} and {len(told)} blocks, alike up to {same}: {parts[0]} is not {parts[1]}"


async def reconnect(stack: Stack, count: int, seed: int) -> Tally:
    """Reconnect at least so often, at two API processes; fail if anybody saw anything else."""
    tally = Tally()
    chance = random.Random(seed)  # noqa: S311 - a seeded choice of cuts
    at_once = min(SESSIONS_AT_ONCE, max(2, count // 100))
    while tally.reconnects < count:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(Lesson(stack, chance, tally).hold())
    return tally


async def _main(count: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="reconnects-") as name:
        folder = Path(name)
        with temporary_postgres(folder / "postgres") as url:
            await asyncio.to_thread(migrate, url, default_model="test-model")
            async with running(url, folder / "stack", apis=2) as stack:
                started = time.monotonic()
                tally = await reconnect(stack, count, seed)
                took = time.monotonic() - started
                await check(url)
                check_logs(stack.logs(), WORD)
    return {
        "seed": seed,
        "seconds": round(took, 1),
        "reconnects": tally.reconnects,
        "tabs, all with exactly the uncut blocks": tally.tabs,
        "blocks that they were shown": tally.blocks,
        "uncut streams": tally.uncut_streams,
        "visits": dict(tally.visits.most_common()),
    }


def main() -> int:
    """Run them, and print what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.reconnects", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20_261_125)
    arguments = parser.parse_args()
    found = asyncio.run(_main(arguments.count, arguments.seed))
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
