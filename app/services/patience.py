"""How a worker waits for its database: runs are kept through an outage, none is cut short."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from app.domain.errors import StorageUnavailableError

T = TypeVar("T")

AWAY_RETRY_S: Final = 0.5


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Await a transaction that goes on to its end though the waiter is cancelled.

    A cancelled driver call may leave a connection in doubt, and a commit half known.
    """
    task = asyncio.ensure_future(work)
    # Should the waiter be gone, nobody else asks for its failure, and the loop would log it.
    task.add_done_callback(_noted)
    return await asyncio.shield(task)


def _noted(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()


async def patiently(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do what may be done twice, again and again while the database is away."""
    while True:
        try:
            return await whole(work())
        except StorageUnavailableError:
            await asyncio.sleep(AWAY_RETRY_S)
