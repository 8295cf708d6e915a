"""Housekeeping that any worker does now and then: delete upstream, purge, prune."""

import logging
from datetime import timedelta
from typing import Final

from app.domain.errors import UpstreamError
from app.ports import Database, Kept, KeptKind, Upstream, UpstreamFiles, UpstreamStores

log = logging.getLogger(__name__)

BATCH: Final = 50
MAX_FAILURES: Final = 3
"""After so many the upstream is taken to be away; the next sweep tries again."""


class UpkeepService:
    """What must go, goes; what can't go yet is tried again, later and later."""

    def __init__(
        self,
        database: Database,
        upstream: Upstream,
        files: UpstreamFiles,
        stores: UpstreamStores,
        *,
        retention: timedelta,
    ) -> None:
        self._database = database
        self._upstream = upstream
        self._files = files
        self._stores = stores
        self._retention = retention

    async def sweep(self) -> None:
        """Delete what must go upstream, then the rows of what was deleted, then old deltas."""
        while await self._delete_upstream():
            pass
        try:
            await self._upstream.tidy()
        except UpstreamError as error:
            log.warning("unused tutors can't be deleted upstream yet: %s", error.code)
        async with self._database.transaction() as uow:
            await uow.answers.forget()
            await uow.upkeep.purge(BATCH)
            await uow.upkeep.purge_users()
            await uow.log.prune(older_than=self._retention, limit=BATCH)

    async def _delete_upstream(self) -> bool:
        """Delete what is due; tell whether there may be more."""
        async with self._database.transaction() as uow:
            due = await uow.ledger.due(BATCH)
        failures = 0
        for kept in due:
            try:
                await self._delete(kept)
            except UpstreamError as error:
                log.warning("the upstream keeps a %s yet: %s", kept.kind.value, error.code)
                failures += 1
                if failures == MAX_FAILURES:
                    return False
                continue
            async with self._database.transaction() as uow:
                await uow.ledger.deleted(kept)
        return len(due) >= BATCH and not failures

    async def _delete(self, kept: Kept) -> None:
        match kept.kind:
            case KeptKind.THREAD:
                await self._upstream.delete_thread(kept.name)
            case KeptKind.RESPONSE:
                await self._upstream.delete_response(kept.name)
            case KeptKind.FILE if kept.upstream_id is not None:
                await self._files.delete(kept.upstream_id)
            case KeptKind.FILE:
                # Sent, but its answer was never heard: it bears our name, if it is there.
                for found in await self._files.find(kept.name, since=kept.opened_at):
                    await self._files.delete(found)
            case KeptKind.VECTOR_STORE if kept.upstream_id is not None:
                await self._stores.delete(kept.upstream_id)
            case KeptKind.VECTOR_STORE:
                for found in await self._stores.find(kept.name, since=kept.opened_at):
                    await self._stores.delete(found)
