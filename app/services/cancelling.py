"""Stopping the upstream: it is surely told, and waited for no longer than a student would wait."""

import asyncio
import logging
from typing import Final

from app.domain.errors import UpstreamError
from app.ports import Ended, Upstream

log = logging.getLogger(__name__)

WAIT_S: Final = 0.7
"""How long a run's end is held up for the upstream's account of it."""
TELL_S: Final = 60.0
PAUSES_S: Final = (0.2, 1.0, 3.0, 10.0, 0.0)
"""Between tries to tell it; the last is given up after."""


class Canceller:
    """Tells the upstream that answers are not wanted any more."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._telling: set[asyncio.Task[Ended | None]] = set()

    async def cancel(self, response_id: str) -> Ended | None:
        """Stop a generation; return how it ended, or None if that is not said in time.

        An upstream that is slow or away goes on being told while the run is settled without it:
        what nobody stops is paid for.
        """
        telling = asyncio.create_task(self._tell(response_id))
        self._telling.add(telling)
        telling.add_done_callback(self._told)
        done, _ = await asyncio.wait({telling}, timeout=WAIT_S)
        return telling.result() if done else None

    def _told(self, telling: asyncio.Task[Ended | None]) -> None:
        self._telling.discard(telling)
        if not telling.cancelled() and telling.exception() is not None:
            # The worker stops: it does not wait for those whose students don't.
            log.warning("the upstream was not told to stop a generation")

    async def _tell(self, response_id: str) -> Ended | None:
        try:
            async with asyncio.timeout(TELL_S):
                for pause in PAUSES_S:
                    try:
                        return await self._upstream.cancel(response_id)
                    except UpstreamError as error:
                        if not error.retryable:
                            return None
                    await asyncio.sleep(pause)
        except TimeoutError:
            pass
        log.warning("the upstream could not be told to stop a generation")
        return None
