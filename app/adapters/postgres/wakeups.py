"""Wake-ups: notifications out after each commit, one listening connection in.

A notification only says that something changed. What it says is bounded, and every listener has
a slow poll behind it, so that a lost one costs time and nothing else.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, Final, Literal

import asyncpg

from app.adapters.postgres.driver import DRIVER_ERRORS, check_cancelled
from app.adapters.postgres.pooler import is_pooled
from app.ports import Wake

log = logging.getLogger(__name__)

Channel = Literal["events", "work"]
CHANNELS: Final[dict[Channel, str]] = {
    "events": "tutor_relay_events",
    "work": "tutor_relay_work",
}
MAX_PAYLOAD_BYTES: Final = 7_900
"""Postgres refuses 8,000, and rolls back the transaction that tried."""
HEALTH_CHECK: Final = timedelta(seconds=5)
RECONNECT: Final = timedelta(seconds=0.5)
DEAF_POLL: Final = timedelta(seconds=0.5)
"""How often everything is looked through where nothing can be heard."""

NEW_RUN: Final = "queued"
"""A payload of `work`: a run waits; anything else may be anything."""

NOTIFY: Final = "SELECT pg_notify($1, $2)"
NOTIFY_BOTH: Final = "SELECT pg_notify($1, $2), pg_notify($3, $4)"


def payload_of(session_ids: Collection[str]) -> str:
    """Name the sessions that changed; empty, meaning any, when they don't fit."""
    text = ",".join(session_ids)
    return text if len(text) <= MAX_PAYLOAD_BYTES else ""


class PostgresWakeUps:
    """One listening connection for each block of `listen`; behind a pooler, a clock."""

    def __init__(self, dsn: str, *, pooled: bool | None = None) -> None:
        self._dsn = dsn
        self._pooled = pooled
        """Whether a pooler is there; None until the first connection finds out."""

    @asynccontextmanager
    async def listen(self, channel: Channel) -> AsyncGenerator["_Wakes"]:
        """Receive a channel's wake-ups while the block lasts, lost connections included."""
        wakes = _Wakes()
        keeper = asyncio.create_task(self._keep(channel, wakes), name=f"listen-{channel}")
        try:
            yield wakes
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self, channel: Channel, wakes: "_Wakes") -> None:
        while True:
            try:
                if self._pooled is None:
                    self._pooled = await is_pooled(self._dsn)
                if self._pooled:
                    await _poll(wakes)
                await self._listen_once(channel, wakes)
            except DRIVER_ERRORS as error:
                check_cancelled()
                log.warning("listening connection lost: %s", type(error).__name__)
            # What was notified while nobody listened is unknown.
            wakes.add(None)
            await asyncio.sleep(RECONNECT.total_seconds())

    async def _listen_once(self, channel: Channel, wakes: "_Wakes") -> None:
        connection = await asyncpg.connect(
            self._dsn,
            timeout=5,
            command_timeout=5,
            server_settings={"application_name": "tutor-relay-listen"},
        )
        try:

            def wake(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
                wakes.add(str(payload).split(",") if payload else None)

            is_lost = asyncio.Event()
            connection.add_termination_listener(lambda _: is_lost.set())
            await connection.add_listener(CHANNELS[channel], wake)
            wakes.add(None)
            while not is_lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEALTH_CHECK.total_seconds()):
                        await is_lost.wait()
                await connection.execute("SELECT 1")
        finally:
            connection.terminate()


async def _poll(wakes: "_Wakes") -> None:
    # A LISTEN would stay with a connection of the pooler's, and tell whoever has it next.
    log.warning("DATABASE_URL is a pooler's and DATABASE_DIRECT_URL is not set: polling")
    while True:
        wakes.add(None)
        await asyncio.sleep(DEAF_POLL.total_seconds())


class _Wakes:
    """Wake-ups of one channel, those that came meanwhile merged into one."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._ids: dict[str, None] = {}
        self._all = False

    def add(self, ids: Wake) -> None:
        if ids is None:
            self._all = True
        else:
            self._ids.update(dict.fromkeys(ids))
        self._arrived.set()

    async def next(self, *, within: timedelta) -> Wake:
        """Wait for one; None also when the time is up or the connection was lost."""
        try:
            async with asyncio.timeout(within.total_seconds()):
                await self._arrived.wait()
        except TimeoutError:
            return None
        self._arrived.clear()
        ids, everything = list(self._ids), self._all
        self._ids.clear()
        self._all = False
        return None if everything else ids
