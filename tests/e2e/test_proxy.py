"""Behind nginx with the very configuration that docker-compose.yml mounts."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest

from tests.conftest import NewDatabase
from tests.e2e.crew import QUESTION, WORD, all_end, ask_at_once, follow, hire, started
from tests.e2e.invariants import check, check_logs, check_reader
from tests.stack import ROOT, Client, Stack, ends_with_done, free_port, until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@contextmanager
def nginx_before(*ports: int) -> Iterator[tuple[str, Path]]:
    """Run nginx before two api processes; yield its URL, and the folder with its log."""
    assert NGINX is not None
    with TemporaryDirectory(prefix="nginx") as made:
        folder = Path(made)
        # Its workers are somebody else when we are root.
        folder.chmod(0o755)
        port = free_port()
        config = (ROOT / "deploy" / "nginx.conf").read_text()
        here = [
            ("listen 8080;", f"listen 127.0.0.1:{port};"),
            ("/tmp/", f"{folder}/"),  # noqa: S108 - what is replaced
            *((f"api-{n}:8000", f"127.0.0.1:{api}") for n, api in enumerate(ports, 1)),
        ]
        for ours, theirs in here:
            assert ours in config
            config = config.replace(ours, theirs)
        (folder / "nginx.conf").write_text(config)
        command = [NGINX, "-p", made, "-e", "stderr", "-c", folder / "nginx.conf"]
        tested = subprocess.run([*command, "-t"], check=False, capture_output=True)
        assert tested.returncode == 0, tested.stderr
        assert b"warn" not in tested.stderr, tested.stderr
        with (
            (folder / "log").open("ab") as log,
            subprocess.Popen([*command, "-g", "daemon off;"], stdout=log, stderr=log) as process,
        ):
            try:
                yield f"http://127.0.0.1:{port}", folder / "log"
            finally:
                process.terminate()


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("proxied")
    env = {"FORWARDED_ALLOW_IPS": "127.0.0.1"}
    async with started(await new_database(), folder, apis=2, pace=30, **env) as made:
        await hire(made)
        yield made


@pytest.fixture(scope="module")
async def nginx(stack: Stack) -> AsyncIterator[tuple[str, Path]]:
    """Its URL and its log; the stack's clients go through it."""
    ports = [int(url.rpartition(":")[2]) for url in stack.api_urls]
    with nginx_before(*ports) as (url, log):
        stack.api_urls.append(url)
        async with httpx2.AsyncClient(base_url=url) as http:

            async def is_up() -> bool:
                try:
                    return (await http.get("/healthz")).status_code == 200
                except httpx2.TransportError:
                    return False

            await until(is_up)
        yield url, log


@pytest.fixture
def client(stack: Stack, nginx: tuple[str, Path]) -> Client:
    assert stack.api_urls[-1] == nginx[0]
    return stack.client(at=-1)


async def assert_unbuffered(client: Client, session: str, stream: "httpx2.Response") -> str:
    """Read a stream: at its first words the answer must be far from its end."""
    assert stream.status_code == 200
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert "content-encoding" not in stream.headers
    read, status_then = b"", ""
    async for chunk in stream.aiter_bytes():
        read += chunk
        if not status_then and b"event: message.delta" in read:
            runs = await client.call("GET", f"/v1/sessions/{session}/runs", 200)
            status_then = runs["data"][0]["status"]
    assert status_then == "in_progress"
    return read.decode()


async def test_streams_arrive_block_by_block(stack: Stack, client: Client) -> None:
    session = await client.open_session()
    path = f"/v1/sessions/{session}"
    body, headers = {"content": QUESTION}, {"Accept": "text/event-stream"}
    async with client.http.stream(
        "POST", f"{path}/messages", json=body, headers=headers
    ) as stream:
        posted = await assert_unbuffered(client, session, stream)
    await client.post(session, "Please explain that in more detail.")
    run = (await client.call("GET", f"{path}/runs", 200))["data"][0]["id"]
    async with client.http.stream("GET", f"{path}/runs/{run}/events") as stream:
        followed = await assert_unbuffered(client, session, stream)
    for told in (posted, followed):
        assert ends_with_done(told)
    # What is no stream may be compressed.
    listed = await client.http.get(f"{path}/messages")
    assert listed.headers["content-encoding"] == "gzip"
    await check(stack.database_url)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_streams_go_on_at_the_other_process(
    stack: Stack, client: Client, how: signal.Signals
) -> None:
    assert client.http.base_url == stack.api_urls[-1]
    asked = await ask_at_once(stack, 6, at=-1)
    readers = [asyncio.create_task(follow(each.events, each.client)) for each in asked]
    port = stack.api_urls[0].rpartition(":")[2]
    first = next(
        p for p in stack.processes if p.env.get("PORT") == port and p.popen.poll() is None
    )
    first.signal(how)
    await first.exit(within=15)
    # One at a time, as an upgrade does: it is back before the next one goes.
    again = stack.start("api", PORT=port)
    later = await ask_at_once(stack, 6, at=-1)
    await all_end(stack, [*asked, *later])
    for each, blocks in zip(asked, await asyncio.gather(*readers), strict=True):
        assert blocks[-1].event == "run.completed"
        await check_reader(stack.database_url, each.session, blocks)
    async with httpx2.AsyncClient(base_url=stack.api_urls[0]) as http:

        async def is_ready() -> bool:
            assert again.popen.poll() is None
            try:
                return (await http.get("/readyz")).status_code == 200
            except httpx2.TransportError:
                return False

        await until(is_ready)
    await check(stack.database_url)
    check_logs(stack.logs(), WORD)


async def test_without_any_process_it_speaks_as_they_do_and_tells_no_ticket(
    stack: Stack, client: Client, nginx: tuple[str, Path]
) -> None:
    session = await client.open_session()
    path = f"/v1/sessions/{session}"
    ticket = (await client.call("POST", f"{path}/stream_tickets", 201))["ticket"]
    apis = [p for p in stack.processes if p.command == ["api"] and p.popen.poll() is None]
    for process in apis:
        process.kill()
    refused = await client.http.post(f"{path}/messages", json={"content": QUESTION})
    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= 1
    assert set(refused.json()) == {"type", "title", "status", "detail", "code", "request_id"}
    for each in ("events", "runs/run_1/events"):
        native = await client.http.get(f"{path}/{each}", params={"ticket": ticket})
        assert native.status_code == 200
        assert native.headers["content-type"] == "text/event-stream"
        assert native.text == "retry: 2000\n\n"

    async def is_logged() -> bool:
        return nginx[1].read_text().count("run_1/events") == 1

    await until(is_logged)
    log = nginx[1].read_text()
    for secret in (ticket, client.token, WORD):
        assert secret not in log
