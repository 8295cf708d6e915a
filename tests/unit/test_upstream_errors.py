"""What the vendor's errors mean: codes of ours, and never the vendor's words."""

from datetime import timedelta
from typing import Any

import httpx2
import openai
import pytest

from app.adapters.wire.errors import TUTOR_LOST, translate
from app.domain.errors import (
    ThreadBusyError,
    ThreadLostError,
    UpstreamError,
    UpstreamInterruptedError,
)

CANARY = "sk-canary-and-a-students-words"
REQUEST = httpx2.Request("POST", "http://upstream.test/v1/responses")


def status_error(
    status: int,
    code: str | None = None,
    *,
    message: str = CANARY,
    param: str | None = None,
    retry_after: str | None = None,
) -> openai.APIStatusError:
    """Make the error as the SDK makes it from an answer."""
    body = {"error": {"message": message, "type": "x", "param": param, "code": code}}
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    response = httpx2.Response(status, json=body, headers=headers, request=REQUEST)
    client = openai.OpenAI(api_key=CANARY, base_url="http://upstream.test/v1")
    return client._make_status_error_from_response(response)  # noqa: SLF001 - as the SDK does


@pytest.mark.parametrize(
    ("status", "code", "expected", "retryable"),
    [
        (400, None, "upstream_rejected", False),
        (400, "of_next_year", "upstream_rejected", False),
        (400, "context_length_exceeded", "context_too_long", False),
        (400, "conversation_locked", "upstream_thread_busy", True),
        (401, "invalid_api_key", "upstream_auth", False),
        (403, None, "upstream_auth", False),
        (404, "model_not_found", "upstream_not_found", False),
        (408, None, "upstream_timeout", True),
        (409, None, "upstream_unavailable", True),
        (413, None, "upstream_rejected", False),
        (418, None, "upstream_rejected", False),
        (422, None, "upstream_rejected", False),
        (429, "rate_limit_exceeded", "upstream_rate_limited", True),
        (429, None, "upstream_rate_limited", True),
        (429, "insufficient_quota", "upstream_quota", False),
        (500, None, "upstream_unavailable", True),
        (502, None, "upstream_unavailable", True),
        (503, None, "upstream_unavailable", True),
        (529, None, "upstream_unavailable", True),
        (599, None, "upstream_unavailable", True),
    ],
)
def test_each_status_has_a_stable_code_and_says_whether_to_try_again(
    status: int, code: str | None, expected: str, *, retryable: bool
) -> None:
    error = translate(status_error(status, code))
    assert (error.code, error.retryable) == (expected, retryable)
    assert not error.generated
    assert error.detail


def test_a_locked_conversation_is_a_busy_thread() -> None:
    assert isinstance(translate(status_error(400, "conversation_locked")), ThreadBusyError)


@pytest.mark.parametrize(
    "message",
    [
        "Thread thread_1 already has an active run run_1.",
        "Can't add messages to thread_1 while a run run_1 is active.",
    ],
)
def test_a_thread_with_a_run_is_busy_though_no_code_says_so(message: str) -> None:
    error = translate(status_error(400, message=message))
    assert isinstance(error, ThreadBusyError)
    assert error.retryable
    assert message not in error.detail


def test_a_missing_assistant_is_told_from_a_missing_thread_and_a_missing_model() -> None:
    tutor = translate(status_error(404, message="No assistant found with id 'asst_1'."))
    assert (tutor.code, tutor.generated) == (TUTOR_LOST, False)
    thread = translate(status_error(404, message="No thread found with id 'thread_1'."))
    assert isinstance(thread, ThreadLostError)
    words = "The model `assistant` of this thread does not exist."
    model = translate(status_error(404, "model_not_found", message=words))
    assert model.code == "upstream_not_found"


@pytest.mark.parametrize(
    "error",
    [
        status_error(404, param="conversation"),
        status_error(404, message="Conversation with id 'conv_1' not found."),
        status_error(404, message="No such conversation."),
        status_error(400, message="No tool output found for function call call_1."),
    ],
)
def test_a_thread_that_is_gone_or_bricked_is_lost(error: openai.APIStatusError) -> None:
    found = translate(error)
    assert isinstance(found, ThreadLostError)
    assert found.retryable


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("0", timedelta()),
        ("1", timedelta(seconds=1)),
        ("1.5", timedelta(seconds=1.5)),
        ("600", timedelta(minutes=10)),
        ("601", None),
        ("-1", None),
        ("1e400", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("1, 2", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 500, 503])
def test_retry_after_is_obeyed_in_seconds_within_reason(
    status: int, header: str | None, wait: timedelta | None
) -> None:
    assert translate(status_error(status, retry_after=header)).retry_after == wait


def test_a_busy_thread_also_says_when_to_come_back() -> None:
    error = translate(status_error(400, "conversation_locked", retry_after="2"))
    assert error.retry_after == timedelta(seconds=2)


def caused(error: Exception, cause: Exception) -> Any:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "generated"),
    [
        (httpx2.ConnectError("x"), "upstream_unavailable", False),
        (httpx2.ConnectTimeout("x"), "upstream_unavailable", False),
        (
            caused(openai.APIConnectionError(request=REQUEST), httpx2.ConnectError("x")),
            "upstream_unavailable",
            False,
        ),
        (
            caused(openai.APITimeoutError(request=REQUEST), httpx2.ConnectTimeout("x")),
            "upstream_unavailable",
            False,
        ),
        (httpx2.ReadTimeout("x"), "upstream_timeout", True),
        (TimeoutError(), "upstream_timeout", True),
        (
            caused(openai.APITimeoutError(request=REQUEST), httpx2.ReadTimeout("x")),
            "upstream_timeout",
            True,
        ),
        (httpx2.RemoteProtocolError("x"), "upstream_interrupted", True),
        (httpx2.ReadError("x"), "upstream_interrupted", True),
        (
            caused(openai.APIConnectionError(request=REQUEST), httpx2.ReadError("x")),
            "upstream_interrupted",
            True,
        ),
        (openai.OpenAIError(CANARY), "upstream_garbage", True),
    ],
    ids=repr,
)
def test_lost_connections_tell_whether_a_generation_may_have_begun(
    error: Any, code: str, *, generated: bool
) -> None:
    found = translate(error)
    assert (found.code, found.generated, found.retryable) == (code, generated, True)
    assert isinstance(found, UpstreamInterruptedError) is generated


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 503])
def test_the_vendors_words_are_never_repeated(status: int) -> None:
    error: UpstreamError = translate(status_error(status))
    assert CANARY not in f"{error!r} {error} {error.detail} {error.extras()} {error.__cause__}"
