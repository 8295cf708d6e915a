"""The adapter against recorded exchanges, in the form of the published wire's own examples.

`recorded/*.txt` hold requests (`>>> method path`, then the members that their body must have) and
what is answered (`<<< status type header=value`, then the body as it is sent).
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.adapters.assistants import request
from app.adapters.assistants.upstream import AssistantsUpstream
from app.adapters.postgres.database import PostgresDatabase
from app.adapters.wire.client import UpstreamConfig
from app.domain.errors import UpstreamError
from app.domain.models import AssistantConfig, Role
from app.ports import Generation, Turn, UpstreamEvent
from app.services.tutors import TutorBook
from tests.contract.responses.conftest import Hearing
from tests.contract.sandbox.conftest import KEY

RECORDED = Path(__file__).parent / "recorded"
MODEL = "gpt-4o"
THREAD, RUN = "thread_123", "thread_123/run_123"
CONFIG = AssistantConfig(name="Tutor", description=None, instructions="Be kind.", model=MODEL)


def ask(
    *texts: str, config: AssistantConfig = CONFIG, thread_id: str | None = THREAD
) -> Generation:
    turns = [Turn(Role.USER, [text]) for text in texts or ("Hi there.",)]
    return Generation(thread_id, turns, config.model, config, "a-safe-name")


@dataclass
class Exchange:
    """A request that is expected, and its answer."""

    method: str
    path: str
    wanted: dict[str, Any]
    status: int
    headers: list[str]
    body: bytes

    def differs(self, method: str, path: str, body: bytes) -> str | None:
        """Say what of a request is not as it was recorded."""
        said, meant = urlsplit(path), urlsplit(self.path)
        if (method, said.path) != (self.method, meant.path):
            return f"{method} {path} instead of {self.method} {self.path}"
        if parse_qs(said.query) != parse_qs(meant.query):
            return f"?{said.query} instead of ?{meant.query}"
        found = json.loads(body) if body else {}
        if {name: found.get(name) for name in self.wanted} != self.wanted:
            return f"{found} instead of {self.wanted}"
        return None


def exchanges(name: str) -> list[Exchange]:
    """Read a recording."""
    found: list[Exchange] = []
    for each in (RECORDED / f"{name}.txt").read_text().split(">>> ")[1:]:
        asked, answered = each.split("<<< ", 1)
        line, _, wanted = asked.partition("\n")
        method, path = line.split()
        head, _, body = answered.partition("\n")
        status, kind, *headers = head.split()
        lines = [f"content-type: {kind}", *(header.replace("=", ": ") for header in headers)]
        members = json.loads(wanted) if wanted.strip() else {}
        found.append(Exchange(method, path, members, int(status), lines, body.encode()))
    return found


@dataclass
class Replay:
    """Answers one request after the other as recorded, however a stream's bytes are cut."""

    url: str = ""
    left: list[Exchange] = field(default_factory=list[Exchange])
    differences: list[str] = field(default_factory=list[str])
    heads: list[str] = field(default_factory=list[str])
    change: Callable[[bytes], Sequence[bytes]] = lambda body: [body]

    def play(self, *names: str) -> None:
        """Expect recordings, one after the other."""
        for name in names:
            self.left += exchanges(name)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head.lower())
            body = await reader.readexactly(int(length[1]) if length else 0)
            self.heads.append(head)
            method, path, _ = head.split(" ", 2)
            await self._answer(writer, method, path, body)
        writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, body: bytes
    ) -> None:
        expected = self.left.pop(0) if self.left else None
        wrong = "one too many" if expected is None else expected.differs(method, path, body)
        if expected is None or wrong:
            self.differences.append(f"{method} {path}: {wrong}")
            writer.write(b"HTTP/1.1 418 Not recorded\r\ncontent-length: 0\r\n\r\n")
            return
        lines = [f"HTTP/1.1 {expected.status} Recorded", *expected.headers, "connection: close"]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        is_stream = "content-type: text/event-stream" in expected.headers
        for piece in self.change(expected.body) if is_stream else [expected.body]:
            writer.write(piece)
            await writer.drain()


@pytest.fixture
async def replay() -> AsyncIterator[Replay]:
    """A server that plays recordings; all that was expected must have been asked, and no more."""
    made = Replay()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield made
    assert not made.differences
    assert not made.left
    assert all("openai-beta: assistants=v2" in head.lower() for head in made.heads)


@pytest.fixture(scope="module")
async def book(new_database: Any) -> AsyncIterator[TutorBook]:
    """The book of tutors, in a database of the module's own."""
    database = PostgresDatabase(await new_database(), pool_size=2)
    yield TutorBook(database)
    await database.aclose()


@pytest.fixture
async def upstream(replay: Replay, book: TutorBook) -> AsyncIterator[AssistantsUpstream]:
    """The adapter, for which the tutor stands upstream already."""
    digest = request.digest(request.assistant(Generation("t", [], CONFIG.model, CONFIG, "s")))
    known = await book.find(digest)
    if known is not None:
        await book.remove(known)
    await book.add(digest, "asst_123")
    made = AssistantsUpstream(UpstreamConfig(KEY, replay.url, 30, 30, max_connections=10), book)
    yield made
    await made.aclose()


async def played(
    upstream: AssistantsUpstream, replay: Replay, *names: str, generation: Generation | None = None
) -> Hearing:
    """Ask for an answer of which there is a recording."""
    replay.play(*names)
    hearing = Hearing()
    try:
        hearing.ended = await upstream.generate(generation or ask(), hearing.events.append)
    except UpstreamError as error:
        hearing.error = error
    return hearing


async def followed(
    upstream: AssistantsUpstream,
    replay: Replay,
    *names: str,
    response_id: str | None = RUN,
    tail: str | None = None,
) -> tuple[Any, list[UpstreamEvent]]:
    """Ask what became of a run of which there is a recording."""
    replay.play(*names)
    heard: list[UpstreamEvent] = []
    ended = await upstream.outcome(
        response_id=response_id, thread_id=THREAD, tail=tail, listen=heard.append
    )
    return ended, heard
