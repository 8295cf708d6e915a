"""The driver's connection, as the repositories see it."""

import asyncio
from typing import TYPE_CHECKING, Final

import asyncpg

if TYPE_CHECKING:
    Driver = asyncpg.Connection[asyncpg.Record]
else:
    Driver = asyncpg.Connection


DRIVER_ERRORS: Final = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""All that a call may end with when the server, or the way to it, fails."""


class PooledConnection(Driver):
    """A connection that can be given up in any state."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - theirs
        """Take leave of the server, unless it is gone: the pool would log that as an error."""
        try:
            await super().close(timeout=timeout)
        except OSError:
            self.terminate()


def is_cancelled() -> bool:
    """Tell whether the running task was cancelled.

    A cancelled call closes its connection, and may end with that error instead: whoever took it
    for an outage and tried again would never stop.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def check_cancelled() -> None:
    """Raise `CancelledError` if the running task was cancelled and the driver told otherwise."""
    if is_cancelled():
        raise asyncio.CancelledError
