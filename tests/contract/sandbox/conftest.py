"""A sandbox on a free port of this machine, and the real client, strict, to call it."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from app.sandbox.config import SandboxConfig
from app.sandbox.server import SandboxServer, make_server

MODEL = "gpt-5-mini"
KEY = "sk-any-key-opens"


@dataclass(frozen=True)
class Event:
    """One server-sent event as it stood on the wire."""

    name: str
    raw: bytes

    @property
    def data(self) -> dict[str, Any]:
        lines = [line[6:] for line in self.raw.split(b"\n") if line.startswith(b"data: ")]
        value: dict[str, Any] = json.loads(b"\n".join(lines))
        return value


@dataclass
class Reading:
    """What a reader of a stream saw, and how it ended (None: properly)."""

    events: list[Event]
    status: int
    content_type: str
    body: bytes
    error: Exception | None
    seconds: float

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @property
    def text(self) -> str:
        return "".join(
            str(event.data["delta"])
            for event in self.events
            if event.name == "response.output_text.delta"
        )


class Sandbox:
    """A running sandbox, as a client without any SDK sees it."""

    def __init__(self, port: int, http: httpx2.AsyncClient) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.http = http

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.http.request(method, f"{self.url}/sandbox/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def fault(self, action: dict[str, Any], **match: Any) -> None:
        await self.admin("POST", "faults", {"action": action, **match})

    async def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.admin("GET", "stats")
        return found

    async def read(self, path: str = "/v1/responses", **body: Any) -> Reading:
        """Read a stream to its end, whatever its end; GET if there is no body."""
        started = time.monotonic()
        got, status, content_type, error = b"", 0, "", None
        method = "POST" if body else "GET"
        try:
            async with self.http.stream(method, self.url + path, json=body or None) as answer:
                status, content_type = answer.status_code, answer.headers["content-type"]
                async for chunk in answer.aiter_raw():
                    got += chunk
        except httpx2.HTTPError as caught:
            error = caught
        blocks = got.split(b"\n\n")
        events = [
            Event(block.split(b"\n")[0].removeprefix(b"event: ").decode(), block)
            for block in blocks
            if block.startswith(b"event: ")
        ]
        return Reading(events, status, content_type, got, error, time.monotonic() - started)


class PlainTutor:
    """Answers with the student's words: what is tested here is how words are carried."""

    async def reply(self, turns: Sequence[tuple[str, str]]) -> str:
        if "break down" in turns[-1][1]:
            raise ZeroDivisionError
        asked = " / ".join(text for role, text in turns if role == "user")
        return f"You asked, in {len(turns)} turns (몇 번에 걸쳐): {asked}. Let us think about it."


async def until(is_so: Callable[[], Awaitable[bool]], *, within_s: float = 5) -> None:
    """Wait for something that comes about in another thread."""
    deadline = time.monotonic() + within_s
    while not await is_so():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


@contextmanager
def serving(config: SandboxConfig) -> Iterator[int]:
    """Run a sandbox in a thread of its own; yield its port."""
    server = make_server("127.0.0.1", 0, config, PlainTutor())
    thread = threading.Thread(target=server.run, name="sandbox")
    thread.start()
    try:
        yield _port(server, thread)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def _port(server: SandboxServer, thread: threading.Thread) -> int:
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the sandbox did not start"
        assert time.monotonic() < deadline, "the sandbox did not start in time"
        time.sleep(0.02)
    return server.bound_port


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    with serving(SandboxConfig(tokens_per_second=0)) as found:
        yield found


@asynccontextmanager
async def emptied(port: int) -> AsyncIterator[Sandbox]:
    """Reach a sandbox, with nothing in it."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        fresh = Sandbox(port, http)
        await fresh.admin("POST", "reset")
        yield fresh


@pytest.fixture
async def sandbox(port: int) -> AsyncIterator[Sandbox]:
    """The shared sandbox, with nothing in it."""
    async with emptied(port) as fresh:
        yield fresh


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[AsyncOpenAI]:
    """The official client, which refuses whatever is not of the documented shape."""
    async with AsyncOpenAI(
        api_key=KEY,
        base_url=f"{sandbox.url}/v1",
        max_retries=0,
        timeout=30,
        _strict_response_validation=True,
    ) as made:
        yield made
