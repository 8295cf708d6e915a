"""Our own processes, as an operator runs them, for tests to drive and to hurt."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import jwt

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a-secret-that-only-the-tests-know-of"
TERMINAL = {"cancelled", "failed", "completed", "incomplete", "expired"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def token(user: str, *, scope: str = "", ttl: float = 3600, **claims: Any) -> str:
    payload = {"sub": user, "exp": time.time() + ttl, "scope": scope} | claims
    return jwt.encode(payload, SECRET, algorithm="HS256")


@dataclass
class Process:
    """One of our processes, its log kept."""

    command: list[str]
    env: dict[str, str]
    log: Path
    module: str = "app"
    root: Path = ROOT
    popen: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", self.module, *self.command],
                cwd=self.root,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
        self.popen.wait()

    async def exit(self, within: float) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.popen.wait), within)


async def until(check: Any, *, within: float = 20, every: float = 0.05) -> Any:
    """Poll an async check until it is truthy."""
    deadline = time.monotonic() + within
    while True:
        found = await check()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come to pass in time"
        await asyncio.sleep(every)


@dataclass
class Block:
    """One server-sent event."""

    id: str | None
    event: str
    data: str
    raw: str


def done_after(end: str) -> str:
    """Return the data of the `done` that follows a run's end, by the data of that."""
    told = json.loads(end)
    place = f'"session_id":"{told["session_id"]}","seq":{told["seq"]}'
    return f'{{"type":"done",{place},"at":"{told["at"]}"}}'


def ends_with_done(text: str) -> bool:
    """Tell whether a run's stream ends with exactly the `done` of the end that it told."""
    done = done_after(blocks_of(text)[-2].data)
    return text.endswith(f"event: done\ndata: {done}\n\n")


def blocks_of(text: str) -> list[Block]:
    """Parse whole blocks; comments and `retry:` are not events."""
    found = []
    for raw in text.split("\n\n")[:-1]:
        fields = dict(line.partition(": ")[::2] for line in raw.split("\n") if ": " in line)
        if "data" in fields:
            found.append(Block(fields.get("id"), fields["event"], fields["data"], raw))
    return found


class Client:
    """One user, at one API process."""

    def __init__(self, base_url: str, user: str, *, scope: str = "", **claims: Any) -> None:
        self.user = user
        self.token = token(user, scope=scope, **claims)
        self.http = httpx2.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=httpx2.Timeout(30),
        )

    async def call(self, method: str, path: str, expect: int, **arguments: Any) -> Any:
        response = await self.http.request(method, path, **arguments)
        assert response.status_code == expect, response.text
        return response.json() if response.content else None

    async def open_session(self, **fields: Any) -> str:
        return str((await self.call("POST", "/v1/sessions", 201, json=fields))["id"])

    async def post(self, session: str, content: str, **fields: Any) -> Any:
        path = f"/v1/sessions/{session}/messages"
        return await self.call("POST", path, 202, json={"content": content, **fields})

    async def run(self, session: str, run: str, **params: Any) -> Any:
        return await self.call("GET", f"/v1/sessions/{session}/runs/{run}", 200, params=params)

    async def ended(self, session: str, run: str, *, within: float = 30) -> Any:
        """Long-poll a run to its end."""
        deadline = time.monotonic() + within
        known = None
        while True:
            params = {"wait": 5} | ({"known": known} if known else {})
            found = await self.run(session, run, **params)
            if found["status"] in TERMINAL:
                return found
            known = found["status"]
            assert time.monotonic() < deadline, f"the run is still {known}"

    async def ask(self, session: str, content: str, *, within: float = 30) -> tuple[Any, str]:
        """Post, wait for the end, and return the run and the answer's text."""
        posted = await self.post(session, content)
        run = await self.ended(session, posted["run"]["id"], within=within)
        if run["output_message_id"] is None:
            return run, ""
        path = f"/v1/sessions/{session}/messages/{run['output_message_id']}"
        message = await self.call("GET", path, 200)
        return run, "".join(part["text"] for part in message["content"])

    async def stream(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, **kw: Any
    ) -> str:
        """Read a whole stream that ends by itself."""
        read = b""
        async with self.http.stream(method, path, headers=headers, **kw) as response:
            assert response.status_code == 200, await response.aread()
            async for chunk in response.aiter_bytes():
                read += chunk
        return read.decode()

    async def close(self) -> None:
        await self.http.aclose()


class Stack:
    """A database and the processes on it."""

    def __init__(self, database_url: str, folder: Path, **settings: str) -> None:
        self.database_url = database_url
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.processes: list[Process] = []
        self.clients: list[Client] = []
        self.sandbox_port = 0
        self.sandbox: Process | None = None
        self.api_urls: list[str] = []
        self.settings = settings
        self.root = ROOT
        """The checkout whose processes are started."""

    def env(self, **more: str) -> dict[str, str]:
        kept = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        ours = {
            "DATABASE_URL": self.database_url,
            "DATA_DIR": str(self.folder / "data"),
            "AUTH_JWT_SECRET": SECRET,
            "OPENAI_API_KEY": "sk-canary-in-no-log",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.sandbox_port}/v1",
            "PYTHONWARNINGS": "default",
        }
        return kept | ours | self.settings | more

    def start(self, *command: str, module: str = "app", **env: str) -> Process:
        name = f"{len(self.processes)}-{command[0]}.log"
        process = Process(list(command), self.env(**env), self.folder / name, module, self.root)
        self.processes.append(process)
        return process

    async def start_sandbox(self, *, pace: float = 0) -> Process:
        self.sandbox_port = self.sandbox_port or free_port()
        port = str(self.sandbox_port)
        self.sandbox = self.start("sandbox", "--port", port, "--tokens-per-second", str(pace))
        await self._healthy(f"http://127.0.0.1:{port}/healthz", self.sandbox)
        return self.sandbox

    async def start_api(self, *, module: str = "app", **env: str) -> Process:
        port = free_port()
        process = self.start("api", module=module, PORT=str(port), **env)
        url = f"http://127.0.0.1:{port}"
        await self._healthy(f"{url}/healthz", process)
        self.api_urls.append(url)
        return process

    async def start_worker(self, **env: str) -> Process:
        before = await self.fetchval("SELECT count(*) FROM workers")
        process = self.start("worker", **env)

        async def is_seen() -> bool:
            assert process.popen.poll() is None, process.log.read_text()
            return bool(await self.fetchval("SELECT count(*) FROM workers") > before)

        await until(is_seen)
        return process

    async def _healthy(self, url: str, process: Process) -> None:
        async with httpx2.AsyncClient() as http:

            async def is_up() -> bool:
                assert process.popen.poll() is None, process.log.read_text()
                try:
                    return (await http.get(url)).is_success
                except httpx2.HTTPError:
                    return False

            await until(is_up, within=40)

    def client(self, *, at: int = 0, user: str | None = None, **claims: Any) -> Client:
        """Return a client of a fresh user, or of a given one, at one API process."""
        chosen = user or f"user-{uuid.uuid4().hex[:12]}"
        client = Client(self.api_urls[at], chosen, **claims)
        self.clients.append(client)
        return client

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        """Call the sandbox's admin endpoints."""
        url = f"http://127.0.0.1:{self.sandbox_port}/sandbox/{path}"
        async with httpx2.AsyncClient() as http:
            response = await http.request(method, url, json=body)
            assert response.is_success, response.text
            return response.json() if response.content else None

    async def fetchval(self, query: str, *arguments: Any) -> Any:
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.database_url)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    def logs(self) -> str:
        return "".join(process.log.read_text() for process in self.processes)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for process in reversed(self.processes):
            process.kill()


@asynccontextmanager
async def running(
    database_url: str,
    folder: Path,
    *,
    apis: int = 1,
    workers: int = 1,
    pace: float = 0,
    **env: str,
) -> AsyncIterator[Stack]:
    """A whole stack: sandbox, API and worker processes on one database."""
    stack = Stack(database_url, folder, **env)
    try:
        await stack.start_sandbox(pace=pace)
        for _ in range(apis):
            await stack.start_api()
        for _ in range(workers):
            await stack.start_worker()
        yield stack
    finally:
        await stack.close()
