"""What failures of the database mean: that it is away for now, or anything else."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import asyncpg
from sqlalchemy import exc

from app.adapters.postgres.driver import check_cancelled
from app.domain.errors import StorageBusyError, StorageUnavailableError

AWAY_STATES: Final = frozenset(
    {
        "08000", "08001", "08003", "08004", "08006",  # connection failures
        "25P03", "53300", "53400",  # idle timeout, too many connections, limits
        "28000", "28P01", "3D000",  # wrong password, no such database: an operator is at it
        "55P03", "57014", "57P01", "57P02", "57P03",  # lock timeout, cancelled, shutting down
        "40001", "40P01",  # serialization failure, deadlock
    }
)  # fmt: skip
"""SQLSTATEs after which the same request may well succeed."""
LOCK_TIMEOUT: Final = "55P03"


@contextmanager
def translated() -> Generator[None]:
    """Turn a driver's word for 'away' into ours; let every other error be what it is."""
    try:
        yield
    except Exception as error:
        if is_away(error):
            check_cancelled()
            is_locked = getattr(error, "sqlstate", None) == LOCK_TIMEOUT
            raise (StorageBusyError if is_locked else StorageUnavailableError) from error
        raise


@contextmanager
def outages_named() -> Generator[None]:
    """Turn a driver's word for 'away' into ours, where no event loop runs.

    Raises:
        StorageUnavailableError: The database is away.
    """
    try:
        yield
    except Exception as error:
        if is_away(error):
            raise StorageUnavailableError from error
        raise


def is_away(error: BaseException) -> bool:
    """Tell whether an error means that the database is away for now."""
    if isinstance(error, OSError):
        return True
    if isinstance(error, exc.DBAPIError):
        if error.connection_invalidated:
            return True
        error = error.orig or error
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        # A migration changed a table; the driver has dropped its plans, and the next try is fine.
        return True
    state = getattr(error, "sqlstate", None)
    if state is not None:
        # A pooler that lost its server ends us with a word that else means a mistake of ours.
        was_ended = state == "08P01" and getattr(error, "severity", "") == "FATAL"
        return was_ended or state in AWAY_STATES
    # A connection that the server has just ended is for a moment in a state that the driver calls
    # its own mistake.
    return isinstance(
        error,
        asyncpg.InterfaceError
        | asyncpg.InternalClientError
        | asyncpg.exceptions.ConnectionDoesNotExistError,
    )
