"""What a cancelled waiter leaves behind goes on, and makes no noise when it fails."""

import asyncio
import gc
from typing import Any

import pytest

from app.domain.errors import FencedError, StorageUnavailableError
from app.services.patience import patiently, whole


async def test_work_goes_on_when_its_waiter_is_cancelled() -> None:
    released, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await released.wait()
        done.set()

    waiter = asyncio.create_task(whole(work()))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    released.set()
    await asyncio.wait_for(done.wait(), 5)


async def test_a_failure_that_nobody_waits_for_any_more_is_not_logged() -> None:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    released = asyncio.Event()

    async def work() -> None:
        await released.wait()
        raise FencedError

    try:
        waiter = asyncio.create_task(whole(work()))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        released.set()
        for _ in range(3):
            await asyncio.sleep(0)
        del waiter
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert complaints == []


async def test_a_waiter_is_told_of_a_failure() -> None:
    async def work() -> None:
        raise FencedError

    with pytest.raises(FencedError):
        await patiently(work)


async def test_an_outage_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.patience.AWAY_RETRY_S", 0)
    tries = 0

    async def work() -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StorageUnavailableError
        return tries

    assert await patiently(work) == 3
