"""The commands, as somebody runs them who has just cloned this, in a clean environment."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import jwt
import psutil
import pytest

from tests.conftest import database_at, execute
from tests.e2e.invariants import check_logs
from tests.stack import ROOT, SECRET, ends_with_done, free_port, until

START_S = 60
QUESTION = "Please solve 3x**2 + 11x - 10 = 0, says canary4711."


@dataclass
class Place:
    """A folder of somebody's own, and what runs in it."""

    folder: Path
    port: int = field(default_factory=free_port)
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def data(self) -> Path:
        """What the embedded defaults keep."""
        return self.folder / "data"

    @property
    def url(self) -> str:
        """Where `serve` listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What was printed, on both streams."""
        return (self.folder / "log").read_text()

    def env(self, **more: str) -> dict[str, str]:
        # No `.env` of the developer's: the working folder is an empty one.
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        ours = {"PYTHONPATH": str(ROOT), "DATA_DIR": str(self.data), "PORT": str(self.port)}
        return kept | ours | more

    def serve(self, **env: str) -> psutil.Process:
        """Start `serve`."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                cwd=self.folder,
                env=self.env(**env),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return psutil.Process(process.pid)

    async def run(self, *command: str, **env: str) -> tuple[int, str, str]:
        """Run a command to its end: its status, and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app",
            *command,
            cwd=self.folder,
            env=self.env(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), START_S)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def postgres(self) -> list[psutil.Process]:
        """Return the processes of the embedded server."""
        try:
            pid = int((self.data / "postgres" / "postmaster.pid").read_text().split("\n")[0])
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children(recursive=True)]
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return []

    async def ready(self, process: psutil.Process) -> None:
        """Wait until it can serve, with a worker."""
        async with httpx2.AsyncClient() as http:

            async def works() -> bool:
                assert is_alive(process), self.log
                try:
                    response = await http.get(f"{self.url}/readyz")
                except httpx2.TransportError:
                    return False
                return bool(response.status_code == 200 and response.json()["workers"] >= 1)

            await until(works, within=START_S)

    def clear(self) -> None:
        """Leave nothing behind, whatever the test found."""
        left = self.postgres()
        for process in self.started:
            if process.poll() is None:
                left += psutil.Process(process.pid).children(recursive=True)
                process.kill()
            process.wait()
        for each in left:
            if is_alive(each):
                each.kill()


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def exit_of(process: psutil.Process, place: Place, within: float = 30) -> int:
    """Wait for the end of what was started last."""
    assert place.started[-1].pid == process.pid
    return await asyncio.wait_for(asyncio.to_thread(place.started[-1].wait), within)


async def gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them is left."""

    async def none_lives() -> bool:
        return not any(map(is_alive, processes))

    await until(none_lives, within=10)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    try:
        yield found
    finally:
        found.clear()


async def answered(place: Place, token: str, session: str | None = None) -> str:
    """Ask with a token; return the session."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=place.url, headers=headers, timeout=40) as http:
        if session is None:
            opened = await http.post("/v1/sessions", json={})
            assert opened.status_code == 201, opened.text
            session = str(opened.json()["id"])
        posted = await http.post(f"/v1/sessions/{session}/messages", json={"content": QUESTION})
        assert posted.status_code == 202, posted.text
        followed = await http.get(f"{posted.headers['location']}/events")
        assert ends_with_done(followed.text)
        assert "run.completed" in followed.text
        listed = await http.get(f"/v1/sessions/{session}/messages")
        assert "241" in listed.json()["data"][0]["content"][0]["text"]
    return session


def token_in(log: str) -> str:
    found = re.findall(r"export TOKEN=(\S+)", log)
    assert found, log
    return str(found[-1])


async def test_serve_needs_nothing_and_leaves_nothing_behind(place: Place) -> None:
    process = place.serve()
    await place.ready(process)
    assert "SANDBOX" in place.log
    assert "OPENAI_API_KEY" in place.log
    await answered(place, token_in(place.log))
    await assert_can_be_tried(place)
    left = [*process.children(recursive=True), *place.postgres()]
    assert any("sandbox" in each.cmdline() for each in left), left
    assert any("postgres" in each.name() for each in left), left
    process.send_signal(signal.SIGTERM)
    assert await exit_of(process, place) == 0, place.log
    await gone(left)
    assert not place.postgres()
    check_logs(place.log, "canary4711")


async def assert_can_be_tried(place: Place) -> None:
    """Paste what was printed into a shell."""
    printed = place.log.partition("Try it:\n")[2]
    lines = [line for line in printed.splitlines() if line.startswith("  ")]
    assert any("curl" in line for line in lines)
    if shutil.which("curl") is None or shutil.which("bash") is None:
        return
    shell = await asyncio.create_subprocess_exec(
        "bash", "-eu", "-c", "\n".join(lines), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(shell.communicate(), START_S)
    assert shell.returncode == 0
    assert b"event: run.completed" in out
    assert ends_with_done(out.decode())


async def test_serve_goes_on_where_a_killed_one_was_and_stops_its_postgres(place: Place) -> None:
    killed = place.serve()
    await place.ready(killed)
    token = token_in(place.log)
    session = await answered(place, token)
    postgres = place.postgres()
    sandbox = [each for each in killed.children(recursive=True) if "sandbox" in each.cmdline()]
    assert sandbox
    killed.kill()
    await exit_of(killed, place)
    # Postgres outlives its holder, the sandbox does not.
    assert all(map(is_alive, postgres[:1]))
    await gone(sandbox)
    heir = place.serve()
    await place.ready(heir)
    # The same key, the same database: what was said is still there, and so is who said it.
    await answered(place, token, session)
    left = [*heir.children(recursive=True), *postgres, *place.postgres()]
    heir.send_signal(signal.SIGTERM)
    assert await exit_of(heir, place) == 0, place.log
    await gone(left)
    assert not place.postgres()
    check_logs(place.log, "canary4711")


async def test_serve_stopped_while_it_starts_leaves_nothing_behind(place: Place) -> None:
    process = place.serve()

    async def has_postgres() -> bool:
        assert is_alive(process), place.log
        return bool(place.postgres())

    await until(has_postgres, within=START_S)
    left = [*process.children(recursive=True), *place.postgres()]
    process.send_signal(signal.SIGTERM)
    assert await exit_of(process, place) == 0, place.log
    await gone(left)
    assert not place.postgres()
    check_logs(place.log)


async def test_serve_refuses_its_defaults_to_others(place: Place) -> None:
    cases = {
        "OPENAI_API_KEY": {"AUTH_JWT_SECRET": SECRET},
        "AUTH_JWT_SECRET": {"OPENAI_API_KEY": "sk-canary-in-no-log"},
        "HOST": {},
    }
    everywhere = "0.0.0.0"  # noqa: S104 - refused
    ran = await asyncio.gather(
        *(place.run("serve", HOST=everywhere, **env) for env in cases.values())
    )
    for word, (status, out, err) in zip(cases, ran, strict=True):
        assert status == 2, err
        assert word in err
        assert "loopback" in err
        check_logs(out + err)
    assert not place.postgres()
    assert not (place.data / "postgres").exists(), "made for what was refused"


@pytest.mark.parametrize("wrong", [("--user", ""), ("--user", "a" * 257), ("--ttl", "0")])
async def test_a_token_that_nobody_would_take_is_not_signed(
    place: Place, wrong: tuple[str, str]
) -> None:
    status, out, err = await place.run("token", "--user", "alice", *wrong)
    assert (status, out) == (2, "")
    assert wrong[0] in err


async def test_what_needs_a_database_says_so(place: Place) -> None:
    ran = await asyncio.gather(*(place.run(name) for name in ("api", "worker", "migrate")))
    for status, out, err in ran:
        assert (status, out) == (2, "")
        assert "DATABASE_URL" in err
        check_logs(err)


async def test_a_wrong_setting_is_named_and_not_repeated(place: Place) -> None:
    status, _, err = await place.run("token", "--user", "alice", RUN_LEASE_S="canary4711")
    assert status == 2
    assert "RUN_LEASE_S" in err
    check_logs(err, "canary4711")


async def test_token_signs_with_the_configured_secret(place: Place) -> None:
    status, out, err = await place.run(
        "token", "--user", "bob", "--scope", "assistants:write", "--ttl", "60",
        AUTH_JWT_SECRET=SECRET, AUTH_ISSUER="us", AUTH_AUDIENCE="relay",
    )  # fmt: skip
    assert status == 0, err
    claims: dict[str, Any] = jwt.decode(
        out.strip(), SECRET, algorithms=["HS256"], audience="relay", issuer="us"
    )
    assert (claims["sub"], claims["scope"]) == ("bob", "assistants:write")
    assert SECRET not in out + err


async def test_migrate_brings_a_new_database_up_to_date_and_others_wait_for_it(
    place: Place, server_url: str
) -> None:
    name = f"migrated_{os.getpid()}"
    await execute(server_url, f"CREATE DATABASE {name}")
    url = database_at(server_url, name)
    env = {
        "DATABASE_URL": url,
        "OPENAI_API_KEY": "sk-canary-in-no-log",
        "AUTH_JWT_SECRET": SECRET,
        "DEFAULT_MODEL": "a-model",
    }
    try:
        behind = await asyncio.gather(place.run("api", **env), place.run("worker", **env))
        for status, _, err in behind:
            assert status == 2, err
            assert "migrate" in err, err
        ran = await asyncio.gather(place.run("migrate", **env), place.run("migrate", **env))
        assert [status for status, _, _ in ran] == [0, 0], ran
        connection = await asyncpg.connect(url)
        try:
            assert await connection.fetchval("SELECT count(*) FROM assistants") == 1
        finally:
            await connection.close()
        check_logs("".join(out + err for _, out, err in [*behind, *ran]))
    finally:
        await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")
