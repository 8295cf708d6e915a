"""What the vendor's errors mean: a domain error with a stable code, and never the vendor's words.

Those may hold the student's text, or a part of the key.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import aiohttp
import httpx2
import openai

from app.domain.errors import (
    ThreadBusyError,
    ThreadLostError,
    UpstreamError,
    UpstreamInterruptedError,
)

UNREADABLE: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading data of any other shape raises."""
MAX_RETRY_AFTER: Final = timedelta(minutes=10)

TUTOR_LOST: Final = "upstream_tutor_lost"
"""The code for an assistant that is not upstream any more."""
_BUSY: Final = re.compile(r"already has an active run|while a run \S+ is active")
"""What servers of threads and runs say of a busy one; they give it no code."""
_MISSING: Final = re.compile(r"\b(assistant|thread)\b")
_NEVER_CONNECTED: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

_WORDS: Final = {
    "context_too_long": "The conversation has become too long for the tutor.",
    "upstream_auth": "The tutor's key was refused.",
    "upstream_files_lost": "Files that the tutor works with were not found.",
    "upstream_format_refused": "The tutor's model can't answer in the form that is asked for.",
    "upstream_garbage": "The tutor's answer could not be read.",
    "upstream_interrupted": "The tutor's answer was cut off.",
    "upstream_not_found": "The tutor's model was not found.",
    "upstream_quota": "The tutor's budget is used up.",
    "upstream_rate_limited": "The tutor is being asked too much at once.",
    "upstream_rejected": "The tutor could not take this request.",
    "upstream_timeout": "The tutor took too long to begin or to go on.",
    TUTOR_LOST: "The tutor is not known upstream any more.",
    "upstream_tool_refused": "The tutor's model does not have a tool that the tutor is to use.",
    "upstream_unavailable": "The tutor is not available for the moment.",
}


def failure(
    code: str,
    *,
    retryable: bool = False,
    generated: bool = False,
    retry_after: timedelta | None = None,
) -> UpstreamError:
    """Make an upstream error with the words that belong to its code."""
    return UpstreamError(
        _WORDS.get(code),
        code=code,
        retryable=retryable,
        generated=generated,
        retry_after=retry_after,
    )


def interrupted(code: str = "upstream_interrupted") -> UpstreamInterruptedError:
    """Make the error of a stream that stopped before its end."""
    return UpstreamInterruptedError(_WORDS[code], code=code)


def translate(
    error: openai.OpenAIError | httpx2.HTTPError | aiohttp.ClientError | TimeoutError,
) -> UpstreamError:
    """Return the domain error for a vendor's."""
    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    cause = error.__cause__ or error
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
        origin = cause.__cause__
        if origin is None or isinstance(origin, _NEVER_CONNECTED):
            return failure("upstream_unavailable", retryable=True)
        # The transport says the same of a connection that is lost once the request was sent.
        return interrupted()
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException | TimeoutError):
        return interrupted("upstream_timeout")
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        return interrupted()
    return interrupted("upstream_garbage")


@contextmanager
def translated() -> Generator[None]:
    """Raise the domain's errors for the vendor's, and for answers of an unknown shape."""
    try:
        yield
    except openai.InternalServerError as error:
        # A gateway may say so of a generation that goes on behind it.
        failed = translate(error)
        failed.generated = True
        raise failed from None
    except (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, TimeoutError) as error:
        raise translate(error) from None
    except UNREADABLE:
        raise interrupted("upstream_garbage") from None


def _of_status(error: openai.APIStatusError) -> UpstreamError:
    status = error.status_code
    by_status: dict[int, UpstreamError] = {
        400: _of_bad_request(error),
        401: failure("upstream_auth"),
        403: failure("upstream_auth"),
        404: _of_missing(error),
        408: failure("upstream_timeout", retryable=True),
        409: failure("upstream_unavailable", retryable=True),
        429: _of_too_many(error),
    }
    known = by_status.get(status)
    if known is not None:
        return known
    if status >= httpx2.codes.INTERNAL_SERVER_ERROR:
        return failure("upstream_unavailable", retryable=True, retry_after=_retry_after(error))
    return failure("upstream_rejected")


def _of_bad_request(error: openai.APIStatusError) -> UpstreamError:
    if error.code == "conversation_locked" or _BUSY.search(error.message):
        return ThreadBusyError(retryable=True, retry_after=_retry_after(error))
    if error.code == "context_length_exceeded":
        return failure("context_too_long")
    if "No tool output found" in error.message or "No tool call found" in error.message:
        # An orphan function call bricks a conversation for good; one that was taken out of it
        # can't be answered there.
        return ThreadLostError(retryable=True)
    param = error.param or ""
    if param.startswith("tools"):
        return failure("upstream_tool_refused")
    if param.startswith("text.format"):
        return failure("upstream_format_refused")
    return failure("upstream_rejected")


def _of_missing(error: openai.APIStatusError) -> UpstreamError:
    if error.param == "conversation" or "onversation" in error.message:
        return ThreadLostError(retryable=True)
    if "ector store" in error.message or "File object" in error.message:
        return failure("upstream_files_lost")
    sought = None if error.code else _MISSING.search(error.message.casefold())
    if sought is not None:
        is_thread = sought[0] == "thread"
        return (
            ThreadLostError(retryable=True) if is_thread else failure(TUTOR_LOST, retryable=True)
        )
    return failure("upstream_not_found")


def _of_too_many(error: openai.APIStatusError) -> UpstreamError:
    if error.code == "insufficient_quota":
        return failure("upstream_quota")
    return failure("upstream_rate_limited", retryable=True, retry_after=_retry_after(error))


def _retry_after(error: openai.APIStatusError) -> timedelta | None:
    """Read `Retry-After` in seconds; dates, and what no one would wait for, are not obeyed."""
    try:
        wait = timedelta(seconds=float(error.response.headers.get("retry-after", "")))
    except (ValueError, OverflowError):
        return None
    return wait if timedelta() <= wait <= MAX_RETRY_AFTER else None


def of_response(error: dict[str, Any] | None) -> tuple[str, bool]:
    """Return code and retryability of a response's `error`, or of a run's `last_error`."""
    code = (error or {}).get("code")
    if code == "rate_limit_exceeded":
        return "upstream_rate_limited", True
    if code in {"server_error", "vector_store_timeout", None}:
        return "upstream_unavailable", True
    return "upstream_rejected", False
