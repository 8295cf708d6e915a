"""How many runs wait in all: the queue is bounded, and knowing it costs next to nothing."""

import time
from typing import Final

from app.domain.errors import QueueFullError
from app.ports import UnitOfWork

LOOK_S: Final = 1.0
"""Between two looks at the queue; what others admit meanwhile may exceed the limit by so much."""


class Crowd:
    """The queue's length, as one process knows it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._next_look = 0.0

    async def admit(self, uow: UnitOfWork) -> None:
        """Count one run more.

        Raises:
            QueueFullError: As many wait as may.
        """
        now = time.monotonic()
        if now >= self._next_look:
            # Set first: those who come while one looks do not look too.
            self._next_look = now + LOOK_S
            self._waiting = await uow.runs.waiting(limit=self._most)
        if self._waiting >= self._most:
            raise QueueFullError
        self._waiting += 1
