"""Giving up what was begun upstream and can't be kept here: the ledger has it deleted there."""

import asyncio
import logging
from contextlib import suppress

from app.domain.errors import DomainError
from app.ports import Database, KeptKind

log = logging.getLogger(__name__)


async def give_up(database: Database, kind: KeptKind, name: str, upstream_id: str | None) -> None:
    """Have the upstream's copy deleted, if there is one, also when we are being stopped."""

    async def retire() -> None:
        try:
            async with database.transaction() as uow:
                await uow.ledger.retire(kind, name, upstream_id)
                uow.wake_workers()
        except DomainError as error:
            # The ledger retires it by itself after an hour.
            log.warning("a %s can't be given up yet: %s", kind.value, error.code)

    retiring = asyncio.ensure_future(retire())
    with suppress(asyncio.CancelledError):
        await asyncio.shield(retiring)
