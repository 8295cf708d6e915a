"""Many streams at once: heard together, each as whole and as separate as by itself."""

import asyncio

import pytest

from app.adapters.responses.upstream import ResponsesUpstream
from app.adapters.wire import ear
from app.domain.errors import FencedError, UpstreamInterruptedError
from app.ports import TextDelta, UpstreamEvent
from tests.contract.responses.conftest import (
    DELTA,
    HEAD,
    POST,
    AnUpstream,
    ask,
    hear,
    recording,
)
from tests.contract.sandbox.conftest import Sandbox, until

WORDS = " ".join(f"word{number}" for number in range(60))


async def is_crowd() -> bool:
    """Tell whether any streams are heard together."""
    return any(task.get_name() == "ear" for task in asyncio.all_tasks())


async def is_none() -> bool:
    """Tell whether each stream, if there is one, is heard by itself."""
    return not await is_crowd()


async def test_a_crowd_is_heard_together_and_each_of_it_whole(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 100})
    texts = [f"echo {number} {WORDS}" for number in range(ear.CROWD + 6)]
    tasks = [asyncio.create_task(hear(upstream, ask(text))) for text in texts]
    await until(is_crowd)
    hearings = await asyncio.gather(*tasks)
    assert all(hearing.text == hearing.answer for hearing in hearings)
    assert len({hearing.response_id for hearing in hearings}) == len(texts)
    await until(is_none)


async def test_few_are_heard_each_as_it_speaks(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    await sandbox.admin("POST", "pace", {"tokens_per_second": 200})
    tasks = [asyncio.create_task(hear(upstream, ask(WORDS))) for _ in range(5)]
    while not all(task.done() for task in tasks):
        assert await is_none()
        await asyncio.sleep(0.01)
    assert all(task.result().text == task.result().answer for task in tasks)


async def test_a_crowd_that_has_thinned_is_heard_one_by_one_again(
    sandbox: Sandbox, upstream: ResponsesUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ear, "CROWD", 6)
    await sandbox.admin("POST", "pace", {"tokens_per_second": 50})
    tasks = [asyncio.create_task(hear(upstream, ask(WORDS))) for _ in range(6)]
    await until(is_crowd)
    for task in tasks[:4]:
        task.cancel()
    await until(is_none)
    assert not any(task.done() for task in tasks[4:])
    for hearing in await asyncio.gather(*tasks[4:]):
        assert hearing.text == hearing.answer


@pytest.mark.parametrize("crowd", [1, 1000], ids=["in a crowd", "alone"])
async def test_an_end_that_came_in_one_burst_before_the_connection_broke_is_heard(
    an_upstream: AnUpstream, monkeypatch: pytest.MonkeyPatch, crowd: int
) -> None:
    monkeypatch.setattr(ear, "CROWD", crowd)
    # More than the SDK's stream gives out at once: the first piece is read in part.
    body = recording(*[f"word{number} " for number in range(400)])
    chunk = b"%x\r\n%s\r\n" % (len(body), body)

    async def burst(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk)
        await writer.drain()
        await asyncio.sleep(ear.PACE_S / 4)
        writer.transport.abort()

    async with await asyncio.start_server(burst, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        hearing = await hear(an_upstream(f"http://127.0.0.1:{port}"), ask())
    assert len(body) > 1 << 15
    assert hearing.text == hearing.answer
    assert hearing.text.endswith("word399 ")


async def test_one_that_fails_or_has_enough_leaves_the_others_alone(
    sandbox: Sandbox, upstream: ResponsesUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ear, "CROWD", 2)
    await sandbox.admin("POST", "pace", {"tokens_per_second": 100})
    action = {"type": "reset", "at": {"event": DELTA, "nth": 9}}
    await sandbox.fault(action, **POST, text="broken off")

    def enough(event: UpstreamEvent) -> None:
        if isinstance(event, TextDelta):
            raise FencedError

    others = [asyncio.create_task(hear(upstream, ask(WORDS))) for _ in range(4)]
    broken = asyncio.create_task(hear(upstream, ask(f"broken off {WORDS}")))
    with pytest.raises(FencedError):
        await upstream.generate(ask(WORDS), enough)
    cut = await broken
    assert isinstance(cut.failure, UpstreamInterruptedError)
    assert len(cut.events) == 1 + 8
    assert all(hearing.text == hearing.answer for hearing in await asyncio.gather(*others))


async def test_one_whose_bytes_are_kept_otherwise_than_we_know_fails_alone(
    sandbox: Sandbox, upstream: ResponsesUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke is looked for in attributes that a new release of aiohttp may change."""

    def unknown(_: object) -> bytes:
        raise TypeError

    monkeypatch.setattr(ear, "CROWD", 2)
    monkeypatch.setattr(ear, "_unread", unknown)
    await sandbox.admin("POST", "pace", {"tokens_per_second": 100})
    action = {"type": "reset", "at": {"event": DELTA, "nth": 9}}
    await sandbox.fault(action, **POST, text="broken off")
    others = [asyncio.create_task(hear(upstream, ask(WORDS))) for _ in range(4)]
    broken = await hear(upstream, ask(f"broken off {WORDS}"))
    assert isinstance(broken.failure, UpstreamInterruptedError)
    assert all(hearing.text == hearing.answer for hearing in await asyncio.gather(*others))
