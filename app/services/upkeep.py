"""Housekeeping that any worker does now and then: delete upstream, purge, prune."""

import logging
import random
from datetime import timedelta
from typing import Final

from app.domain.errors import UpstreamError
from app.ports import Database, Upstream

log = logging.getLogger(__name__)

BATCH: Final = 50
MAX_FAILURES: Final = 3
"""After so many the upstream is taken to be away; the next sweep tries again."""


class UpkeepService:
    """What must go, goes; what can't go yet is tried again the next time."""

    def __init__(self, database: Database, upstream: Upstream, *, retention: timedelta) -> None:
        self._database = database
        self._upstream = upstream
        self._retention = retention

    async def sweep(self) -> None:
        """Delete unused upstream threads, then the rows of deleted sessions, then old deltas."""
        async with self._database.transaction() as uow:
            threads = list(await uow.upkeep.threads_to_delete(BATCH))
        # Those that can't be deleted must not come first for ever.
        random.shuffle(threads)
        failures = 0
        for thread_id in threads:
            try:
                await self._upstream.delete_thread(thread_id)
            except UpstreamError as error:
                log.warning("an upstream thread can't be deleted yet: %s", error.code)
                failures += 1
                if failures == MAX_FAILURES:
                    break
                continue
            async with self._database.transaction() as uow:
                await uow.upkeep.thread_deleted(thread_id)
        try:
            await self._upstream.tidy()
        except UpstreamError as error:
            log.warning("unused tutors can't be deleted upstream yet: %s", error.code)
        async with self._database.transaction() as uow:
            await uow.answers.forget()
            await uow.upkeep.purge(BATCH)
            await uow.log.prune(older_than=self._retention, limit=BATCH)
