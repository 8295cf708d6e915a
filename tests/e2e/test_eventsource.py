"""Native EventSources, in Chromium and in Node, whose API processes are stopped and killed."""

import asyncio
import json
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL as NOWHERE
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NewDatabase
from tests.e2e.crew import QUESTION, WORD, follow, hire, started
from tests.e2e.invariants import check, check_logs
from tests.forwarder import Forwarder, forwarding
from tests.stack import Block, Stack, done_after, until

HERE = Path(__file__).parent
PACKAGE = "eventsource@3.0.7"
PACE = 50
"""Tokens a second: an answer outlives some reconnects, which an EventSource delays by seconds."""
TYPES = [
    *(f"message.{kind}" for kind in ("created", "delta", "completed", "incomplete", "reset")),
    *(f"run.{kind}" for kind in ("queued", "in_progress", "completed", "failed", "step")),
    *("reset", "done"),
]
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
PAGE = """<!doctype html><script>{library}</script><script>
follow(EventSource, {streams}, {types}, (told) =>
  fetch("/told", {{ method: "POST", body: JSON.stringify(told) }}));
</script>"""
SCRIPT = """import {{ EventSource }} from "eventsource";
{library}
follow(EventSource, {streams}, {types}, (told) => console.log(JSON.stringify(told)));
"""


class Page:
    """What the page told so far; it is served from an origin of its own."""

    def __init__(self) -> None:
        self.html = ""
        self.origin = ""
        self.counts: dict[str, int] = {}
        self.reports: dict[str, Any] = {}

    def hear(self, told: dict[str, Any]) -> None:
        """Take one message of `follow.js`."""
        if "seen" in told:
            self.reports[told["name"]] = told
        else:
            self.counts[told["name"]] = max(told["count"], self.counts.get(told["name"], 0))

    async def has_seen(self, name: str, count: int) -> None:
        """Wait until a stream has shown so many blocks."""

        async def shows() -> bool:
            return self.counts.get(name, 0) >= count

        await until(shows, within=60)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request: the page itself, or something that it tells."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        answer = b""
        if head.startswith("POST"):
            self.hear(json.loads(body))
        elif head.startswith("GET / "):
            answer = self.html.encode()
        lines = ["HTTP/1.1 200 OK", "Content-Type: text/html; charset=utf-8"]
        lines += [f"Content-Length: {len(answer)}", "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + answer)
        writer.close()


def script_of(template: str, streams: dict[str, Any]) -> str:
    library = (HERE / "follow.js").read_text()
    parts = {"streams": json.dumps(streams), "types": json.dumps(TYPES)}
    return template.format(library=library, **parts)


@asynccontextmanager
async def child(*command: str, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program and what it starts, in a group of its own that ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *command, start_new_session=True, stderr=NOWHERE, **options
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def find_chromium(_folder: Path) -> str:
    """Return the program; skip where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    return program


async def install_package(folder: Path) -> str:
    """Return Node, the package installed in the folder; skip where it can't be."""
    npm, program = shutil.which("npm"), shutil.which("node")
    if npm is None or program is None:
        pytest.skip("Node and npm are not installed")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
    async with child(*command, stdout=NOWHERE) as installing:
        with suppress(TimeoutError):
            await asyncio.wait_for(installing.wait(), 90)
        if installing.returncode != 0:
            pytest.skip(f"npm can't install {PACKAGE} here")
    return program


@asynccontextmanager
async def chromium(
    program: str, page: Page, streams: dict[str, Any], folder: Path
) -> AsyncIterator[None]:
    page.html = script_of(PAGE, streams)
    profile = f"--user-data-dir={folder / 'profile'}"
    async with child(program, *CHROMIUM_FLAGS, profile, page.origin, stdout=NOWHERE):
        yield


@asynccontextmanager
async def node(
    program: str, page: Page, streams: dict[str, Any], folder: Path
) -> AsyncIterator[None]:
    script = folder / "page.mjs"
    script.write_text(script_of(SCRIPT, streams))

    async def listen(lines: asyncio.StreamReader) -> None:
        async for line in lines:
            page.hear(json.loads(line))

    async with child(program, str(script), stdout=PIPE, limit=1 << 24) as running:
        assert running.stdout is not None
        listening = asyncio.create_task(listen(running.stdout))
        yield
        listening.cancel()


BROWSERS = {"chromium": (find_chromium, chromium), "node": (install_package, node)}


@pytest.fixture(scope="module")
async def page() -> AsyncIterator[Page]:
    page = Page()
    server = await asyncio.start_server(page.serve, "127.0.0.1", 0)
    page.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield page
    server.close()


@pytest.fixture(scope="module")
async def stack(
    page: Page, new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    url, folder = await new_database(), tmp_path_factory.mktemp("eventsource")
    async with started(url, folder, pace=PACE, CORS_ORIGINS=page.origin) as stack:
        await hire(stack)
        yield stack
        await check(url)
        check_logs(stack.logs(), WORD)


def heard(blocks: Sequence[Block]) -> list[list[str]]:
    """Return what an EventSource makes of blocks: its last id stays when one has none."""
    last, found = "", []
    for block in blocks:
        last = block.id or last
        found.append([last, block.event, block.data])
    return found


@pytest.mark.parametrize("browser", BROWSERS)
async def test_an_eventsource_goes_on_elsewhere_when_its_process_is_stopped_or_killed(
    stack: Stack, page: Page, browser: str, tmp_path: Path
) -> None:
    ready, opened = BROWSERS[browser]
    program = await ready(tmp_path)
    client = stack.client()
    session = await client.open_session()
    stopped, killed = [await stack.start_api() for _ in range(2)]
    path = f"/v1/sessions/{session}"
    first = await client.post(session, QUESTION)
    second = await client.post(session, QUESTION, on_active_run="enqueue")
    ticket = (await client.call("POST", f"{path}/stream_tickets", 201))["ticket"]
    behind = [*stack.api_urls[-2:], stack.api_urls[0]]
    run_path = f"{path}/runs/{second['run']['id']}/events"
    page.counts.clear()
    page.reports.clear()
    async with forwarding(behind) as front:
        streams = addresses(front, path, run_path, ticket)
        async with opened(program, page, streams, tmp_path):
            await page.has_seen("a tab", 5)
            stopped.signal(signal.SIGTERM)
            assert await stopped.exit(5) == 0
            await page.has_seen("the run", 5)
            killed.kill()

            async def have_all() -> bool:
                return page.reports.keys() == streams.keys()

            await until(have_all, within=90)
    assert (await client.ended(session, first["run"]["id"]))["status"] == "completed"
    uncut = await follow(f"{path}/events?after=0", client, is_over=two_runs_ended)
    told = heard(uncut)
    for name in ("a tab", "its duplicate"):
        assert page.reports[name]["seen"] == told, name
        assert page.reports[name]["errors"] >= 2, "it was cut twice, and came back"
    asked = heard(await follow(run_path, client))
    report = page.reports["the run"]
    *seen, (_, *done) = report["seen"]
    assert seen == asked
    assert done == ["done", done_after(seen[-1][2])]
    assert report["state"] == 2, "204 closed it"
    assert all(front.taken), "each of the processes was read"


def addresses(front: Forwarder, path: str, run_path: str, ticket: str) -> dict[str, Any]:
    """Return what the page follows: its session twice, and its second run."""
    whole = {"url": f"{front.url}{path}/events?after=0&ticket={ticket}", "last": "run.completed"}
    run = {"url": f"{front.url}{run_path}?ticket={ticket}", "last": None}
    return {"a tab": whole, "its duplicate": whole, "the run": run}


def two_runs_ended(blocks: Sequence[Block]) -> bool:
    return sum(block.event == "run.completed" for block in blocks) == 2
