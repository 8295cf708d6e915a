"""The real adapter and the real client, against the sandbox or against bytes of our own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import AsyncOpenAI

from app.adapters.responses.upstream import ResponsesUpstream
from app.adapters.wire.client import UpstreamConfig
from app.domain.errors import UpstreamError
from app.domain.models import AssistantConfig, Role
from app.ports import Ended, Generation, Started, TextDelta, Turn, UpstreamEvent
from app.sandbox.config import SandboxConfig
from tests.contract.sandbox.conftest import KEY, MODEL, Sandbox, emptied, serving

CONFIG = AssistantConfig(name="Tutor", description=None, instructions="Be kind.", model=MODEL)
POST = {"method": "POST", "path": "/v1/responses"}
DELTA = "response.output_text.delta"
CREATED = "response.created"
COMPLETED = "response.completed"

AnUpstream = Callable[..., ResponsesUpstream]


def ask(
    text: str = "one two three", *, thread_id: str | None = None, config: AssistantConfig = CONFIG
) -> Generation:
    return Generation(thread_id, [Turn(Role.USER, [text])], MODEL, config, "a-safe-name")


@dataclass
class Hearing:
    """What was heard of a generation, and how it ended."""

    events: list[UpstreamEvent] = field(default_factory=list[UpstreamEvent])
    ended: Ended | None = None
    error: UpstreamError | None = None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def response_id(self) -> str:
        return next(event.response_id for event in self.events if isinstance(event, Started))

    @property
    def end(self) -> Ended:
        assert self.ended is not None, self.error
        return self.ended

    @property
    def answer(self) -> str:
        return "".join(part.text for part in self.end.content)

    @property
    def failure(self) -> UpstreamError:
        assert self.error is not None, self.ended
        return self.error


async def hear(upstream: ResponsesUpstream, generation: Generation) -> Hearing:
    """Generate; what the port does not promise to raise passes through and fails the test."""
    hearing = Hearing()
    try:
        hearing.ended = await upstream.generate(generation, hearing.events.append)
    except UpstreamError as error:
        hearing.error = error
    return hearing


async def outcome(
    upstream: ResponsesUpstream,
    heard: Callable[[UpstreamEvent], None] = lambda _: None,
    *,
    response_id: str | None = None,
    thread_id: str | None = None,
    tail: str | None = None,
) -> Ended | None:
    """Ask what became of a generation."""
    return await upstream.outcome(
        response_id=response_id, thread_id=thread_id, tail=tail, listen=heard
    )


@pytest.fixture(scope="session")
def adapter_port() -> Iterator[int]:
    with serving(SandboxConfig(tokens_per_second=0)) as found:
        yield found


@pytest.fixture
async def sandbox(adapter_port: int) -> AsyncIterator[Sandbox]:
    """A sandbox with nothing in it."""
    async with emptied(adapter_port) as fresh:
        yield fresh


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[AsyncOpenAI]:
    """The official client, to see for itself what the adapter did."""
    async with AsyncOpenAI(
        api_key=KEY, base_url=f"{sandbox.url}/v1", max_retries=0, timeout=30
    ) as made:
        yield made


@pytest.fixture
async def an_upstream() -> AsyncIterator[AnUpstream]:
    """Make adapters that are closed at the end."""
    made: list[ResponsesUpstream] = []

    def make(
        url: str, *, first_byte_s: float = 30, idle_s: float = 30, background: bool = False
    ) -> ResponsesUpstream:
        config = UpstreamConfig(
            KEY,
            f"{url}/v1",
            first_byte_s,
            idle_s,
            max_connections=100,
            background=background,
        )
        made.append(ResponsesUpstream(config))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


@pytest.fixture
def upstream(sandbox: Sandbox, an_upstream: AnUpstream) -> ResponsesUpstream:
    """The adapter, at the sandbox, with all the patience that a slow machine needs."""
    return an_upstream(sandbox.url)


# ---------------------------------------------------------------- bytes of our own


def block(event: dict[str, Any], newline: bytes = b"\n") -> bytes:
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    return b"event: %s%sdata: %s%s" % (event["type"].encode(), newline, data, newline * 2)


def recording(*texts: str, newline: bytes = b"\n") -> bytes:
    """Return a small stream as the upstream would send it."""
    number = iter(range(len(texts) + 2))
    response = {"id": "resp_1", "status": "in_progress", "output": []}
    events: list[dict[str, Any]] = [
        {"type": CREATED, "sequence_number": next(number), "response": response}
    ]
    place = {"output_index": 0, "content_index": 0}
    events += [
        {"type": DELTA, "sequence_number": next(number), "delta": text, **place} for text in texts
    ]
    content = [{"type": "output_text", "text": "".join(texts), "annotations": []}]
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": content}
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    response = {"id": "resp_1", "status": "completed", "output": [item], "usage": usage}
    events.append({"type": COMPLETED, "sequence_number": next(number), "response": response})
    return b"".join(block(event, newline) for event in events)


@dataclass
class RawServer:
    """Answers every POST with the next script: bytes, and pauses in seconds."""

    url: str
    scripts: list[Sequence[bytes | float]] = field(default_factory=list[Sequence["bytes | float"]])
    requests: list[bytes] = field(default_factory=list[bytes])
    sent_bytes: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            self.requests.append(head + await reader.readexactly(length))
            for step in self.scripts.pop(0):
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                    self.sent_bytes += len(step)
                else:
                    await asyncio.sleep(step)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the reader went away, which some tests want
        finally:
            writer.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"


def plain(body: bytes) -> bytes:
    """Frame a body that ends with the connection."""
    return HEAD + b"connection: close\r\n\r\n" + body


@asynccontextmanager
async def raw_server() -> AsyncIterator[RawServer]:
    made = RawServer("")
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    made.url = f"http://127.0.0.1:{port}"
    async with server:
        yield made


@pytest.fixture
async def raw() -> AsyncIterator[RawServer]:
    """A server that sends what it is told to, byte for byte."""
    async with raw_server() as made:
        yield made
