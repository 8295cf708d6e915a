"""The sandbox as a process that can be killed, its ledger outliving it."""

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2

from tests.stack import ROOT, free_port, until

PACE: Final = 80
AWAY: Final = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    httpx2.HTTPError,
)
"""How it shows that the database or the sandbox is not there just now."""


class Sandbox:
    """One address, and whatever sandbox is there."""

    def __init__(self, log: Path, http: httpx2.AsyncClient) -> None:
        self.log = log
        self.http = http
        self.port = free_port()
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._posts: list[dict[str, Any]] = []
        """What sandboxes that are gone had in their ledgers."""

    async def start(self) -> None:
        """Start it, where it was."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app", "sandbox", "--port", str(self.port)),
                *("--tokens-per-second", str(PACE)),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

        async def is_up() -> bool:
            try:
                url = f"http://127.0.0.1:{self.port}/healthz"
                return (await self.http.get(url, timeout=1)).is_success
            except httpx2.HTTPError:
                return False

        await until(is_up, within=60)

    async def stop(self) -> None:
        """End it, if it is there."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def kill(self) -> None:
        """Kill it, its ledger read just before; start it again, empty."""
        async with self._turn:
            self._posts += await self._ledger()
            await self.stop()
            await self.start()

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        """Call its admin endpoints."""
        async with self._turn:
            return await self._admin(method, path, body)

    async def _admin(self, method: str, path: str, body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self.port}/sandbox/{path}"
        response = await self.http.request(method, url, json=body)
        assert response.is_success, response.text
        return response.json()

    async def _ledger(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._admin("GET", "posts"))["data"]
        return found

    async def posts(self) -> list[dict[str, Any]]:
        """Return what every sandbox was asked."""
        async with self._turn:
            return self._posts + await self._ledger()
