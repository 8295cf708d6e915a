"""The database's clock, as a process knows it between two answers."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

TRUSTED_S: Final = 10.0
"""How long it is carried on: two steady clocks part by some microseconds in that time."""


class DatabaseClock:
    """The last instant that the database told, carried on by this process's steady clock.

    It lags by the way of that answer, and by what its statement waited for a lock. It never runs
    ahead: an event that is stamped by it is not younger than one that the database stamps later.
    """

    def __init__(self) -> None:
        self._instant = datetime.min.replace(tzinfo=UTC)
        self._heard = float("-inf")

    def observe(self, instant: datetime) -> datetime:
        """Take note of what the database told; return it.

        An answer that was long on its way does not turn the clock back.
        """
        present = self.now()
        if present is None or instant > present:
            self._instant, self._heard = instant, time.monotonic()
        return instant

    def now(self) -> datetime | None:
        """Return the database's instant; None if it was not heard of lately."""
        passed = time.monotonic() - self._heard
        return self._instant + timedelta(seconds=passed) if passed < TRUSTED_S else None
