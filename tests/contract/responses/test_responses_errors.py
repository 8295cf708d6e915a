"""What the vendor's refusals become: stable codes, and never the vendor's words."""

import asyncio
import socket
import traceback
from datetime import timedelta
from typing import Any

import pytest

from app.adapters.responses.upstream import ResponsesUpstream
from app.domain.errors import ThreadBusyError, ThreadLostError, UpstreamError
from tests.contract.responses.conftest import (
    KEY,
    POST,
    AnUpstream,
    RawServer,
    ask,
    hear,
)
from tests.contract.sandbox.conftest import Sandbox
from tests.stack import free_port

CANARY = "the student wrote: Eselsohr"


def status(number: int, **more: Any) -> dict[str, Any]:
    return {"type": "status", "status": number, "message": CANARY, **more}


REFUSALS: list[tuple[dict[str, Any], str, bool, float | None]] = [
    (status(400), "upstream_rejected", False, None),
    (status(400, code="context_length_exceeded"), "context_too_long", False, None),
    (status(400, code="conversation_locked"), "upstream_thread_busy", True, None),
    (
        status(400, message=f"No tool output found for {CANARY}"),
        "upstream_thread_lost",
        True,
        None,
    ),
    (status(401, code="invalid_api_key"), "upstream_auth", False, None),
    (status(403), "upstream_auth", False, None),
    (status(404, code="model_not_found"), "upstream_not_found", False, None),
    (status(404, message=f"Conversation {CANARY}"), "upstream_thread_lost", True, None),
    (status(408), "upstream_timeout", True, None),
    (status(409), "upstream_unavailable", True, None),
    (status(422), "upstream_rejected", False, None),
    (status(429), "upstream_rate_limited", True, None),
    (status(429, retry_after=7), "upstream_rate_limited", True, 7),
    (status(429, retry_after="soon"), "upstream_rate_limited", True, None),
    (status(429, code="insufficient_quota"), "upstream_quota", False, None),
    (status(500), "upstream_unavailable", True, None),
    (status(500, headers={"x-should-retry": "true"}), "upstream_unavailable", True, None),
    (status(503), "upstream_unavailable", True, None),
    (status(503, retry_after=0.5), "upstream_unavailable", True, 0.5),
    (status(307, headers={"location": "/v1/responses"}), "upstream_rejected", False, None),
    (status(502, body=CANARY), "upstream_unavailable", True, None),
    (status(400, body=[CANARY]), "upstream_rejected", False, None),
    (status(404, body={"error": CANARY}), "upstream_not_found", False, None),
    (
        status(429, body={"error": {"code": [1], "message": {}}}),
        "upstream_rate_limited",
        True,
        None,
    ),
]


def words(error: BaseException) -> str:
    """Return all that a log could hold of an error."""
    return f"{error!r} {vars(error)} {''.join(traceback.format_exception(error))}"


@pytest.mark.parametrize(("fault", "code", "retryable", "wait"), REFUSALS)
async def test_a_refusal_has_a_code_and_says_whether_and_when_to_try_again(
    sandbox: Sandbox,
    upstream: ResponsesUpstream,
    fault: dict[str, Any],
    code: str,
    *,
    retryable: bool,
    wait: float | None,
) -> None:
    await sandbox.fault(fault, **POST)
    hearing = await hear(upstream, ask())
    error = hearing.failure
    assert (error.code, error.retryable) == (code, retryable)
    assert error.generated is (fault["status"] >= 500)
    assert error.retry_after == (None if wait is None else timedelta(seconds=wait))
    assert isinstance(error, ThreadBusyError) is (code == "upstream_thread_busy")
    assert isinstance(error, ThreadLostError) is (code == "upstream_thread_lost")
    assert hearing.events == []
    assert error.detail
    assert "Eselsohr" not in words(error)
    assert KEY not in words(error)
    stats = await sandbox.stats()
    assert (stats["response_posts"], stats["generations"]) == (1, 0)
    assert (await hear(upstream, ask())).ended is not None


@pytest.mark.parametrize("number", [401, 429, 503])
async def test_a_thread_can_not_be_opened_while_the_upstream_refuses(
    sandbox: Sandbox, upstream: ResponsesUpstream, number: int
) -> None:
    fault = status(number, retry_after=3)
    await sandbox.fault(fault, path="/v1/conversations")
    with pytest.raises(UpstreamError) as caught:
        await upstream.open_thread([])
    expected = {401: "upstream_auth", 429: "upstream_rate_limited", 503: "upstream_unavailable"}
    assert caught.value.code == expected[number]
    assert caught.value.retryable is (number != 401)
    assert "Eselsohr" not in words(caught.value)
    assert (await sandbox.stats())["calls"]["POST /v1/conversations"] == 1


async def test_an_upstream_that_is_not_there_is_unavailable(an_upstream: AnUpstream) -> None:
    upstream = an_upstream(f"http://127.0.0.1:{free_port()}")
    hearing = await hear(upstream, ask())
    assert hearing.failure.code == "upstream_unavailable"
    assert (hearing.failure.retryable, hearing.failure.generated) == (True, False)
    with pytest.raises(UpstreamError) as caught:
        await upstream.open_thread([])
    assert caught.value.code == "upstream_unavailable"


async def test_an_upstream_whose_name_is_not_known_is_unavailable(
    an_upstream: AnUpstream,
) -> None:
    hearing = await hear(an_upstream("http://upstream.invalid"), ask())
    assert hearing.failure.code == "upstream_unavailable"
    assert hearing.failure.retryable


async def test_an_upstream_that_does_not_take_the_connection_times_out(
    an_upstream: AnUpstream,
) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.settimeout(0)
                filler.connect_ex(deaf.getsockname())
            upstream = an_upstream(f"http://127.0.0.1:{deaf.getsockname()[1]}", first_byte_s=0.5)
            started = loop.time()
            hearing = await hear(upstream, ask())
            assert loop.time() - started < 10
        finally:
            for filler in fillers:
                filler.close()
    assert hearing.failure.code == "upstream_timeout"
    assert hearing.failure.retryable


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "upstream_interrupted"),
        (b"HTTP/1.1 200", "upstream_interrupted"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "upstream_garbage"),
    ],
)
async def test_an_upstream_that_speaks_no_http_may_have_begun_nevertheless(
    raw: RawServer, an_upstream: AnUpstream, answer: bytes, code: str
) -> None:
    raw.scripts = [[answer]]
    hearing = await hear(an_upstream(raw.url), ask())
    assert hearing.failure.code == code
    assert (hearing.failure.retryable, hearing.failure.generated) == (True, True)
    assert len(raw.requests) == 1


async def test_a_post_on_a_connection_that_was_kept_and_then_reset_is_not_sent_twice(
    sandbox: Sandbox, upstream: ResponsesUpstream
) -> None:
    assert (await hear(upstream, ask())).ended is not None
    await sandbox.fault({"type": "reset"}, **POST)
    hearing = await hear(upstream, ask())
    assert (hearing.failure.code, hearing.failure.generated) == ("upstream_interrupted", True)
    assert (await sandbox.stats())["response_posts"] == 2
