"""Errors in the wire's envelope, `{"error": {message, type, param, code}}`, and in its words."""

import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api import present
from app.api.problems import status_of
from app.container import ApiServices
from app.domain import errors
from app.domain.ids import is_id

INVALID: Final = "invalid_request_error"
_NAME: Final = re.compile(r"[a-z_]{1,64}")
"""Of a parameter: what else a client may send as one is never echoed."""

_TAGS: Final = frozenset({"text", "image_file"})
_KINDS: Final = {
    "thread_id": "thread",
    "assistant_id": "assistant",
    "message_id": "message",
    "run_id": "run",
    "step_id": "run step",
    "file_id": "file",
    "store_id": "vector store",
    "store_file_id": "vector store file",
    "batch_id": "file batch",
}
_TYPES: Final = {401: INVALID, 403: INVALID, 404: INVALID, 413: INVALID, 429: "requests"}
_CODES: Final = {
    400: None,
    401: "invalid_api_key",
    403: "insufficient_permissions",
    404: None,
    429: "rate_limit_exceeded",
}

_WORDS: Final = {
    "missing": ("Missing required parameter: {}.", "missing_required_parameter"),
    "extra_forbidden": ("Unknown parameter: {}.", "unknown_parameter"),
    "unsupported": ("Unsupported parameter: {} {}.", "unsupported_parameter"),
    "string_too_long": (
        "Invalid {}: string too long. Expected a string with maximum length {max_length}.",
        "string_above_max_length",
    ),
    "too_long": (
        "Invalid {}: too many items. Expected at most {max_length}.",
        "array_above_max_length",
    ),
    "invalid_schema": ("Invalid schema for {}: {}.", "invalid_json_schema"),
    "less_than_equal": (
        "Invalid {}: above maximum value. Expected a value <= {le}.",
        "integer_above_max_value",
    ),
    "greater_than_equal": (
        "Invalid {}: below minimum value. Expected a value >= {ge}.",
        "integer_below_min_value",
    ),
}
"""What pydantic finds, in the wire's words and with its codes."""


class WireError(Exception):
    """A refusal that only the wire has."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class _Said:
    """What is wrong with a parameter, as the wire says it."""

    message: str
    code: str | None


def envelope(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with an error."""
    default = INVALID if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    error = {
        "message": message,
        "type": _TYPES.get(status, default),
        "param": param,
        "code": code,
    }
    return present.body({"error": error}, status, headers)


class WireRoute(APIRoute):
    """A route whose errors are the wire's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler; what it raises is answered here."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except WireError as error:
                return envelope(error.status, str(error), param=error.param, code=error.code)
            except errors.NotFoundError as error:
                return envelope(404, await _not_found(request, error))
            except errors.DomainError as error:
                return _refusal(error)
            except RequestValidationError as error:
                return _invalid(error)
            except HTTPException as error:
                phrase = HTTPStatus(error.status_code).phrase
                return envelope(error.status_code, f"{phrase}.", headers=error.headers)

        return answer


async def fault(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that it is our fault."""
    message = "The server had an error while processing your request."
    await envelope(500, message)(scope, receive, send)


def missing(kind: str, value: str) -> str:
    """Say that there is no such thing; what can't be an id is not repeated."""
    return f"No {kind} found with id '{value}'." if is_id(value) else f"No such {kind} found."


async def _not_found(request: Request, error: errors.NotFoundError) -> str:
    """Name what there is none of: the thread, or else what was sought in it."""
    if error.detail != errors.NotFoundError().detail:
        return error.detail
    sought = {name: value for name, value in request.path_params.items() if name in _KINDS}
    thread_id, user = sought.get("thread_id"), getattr(request.state, "user", None)
    if len(sought) > 1 and thread_id is not None and user is not None:
        services: ApiServices = request.app.state.services
        try:
            await services.sessions.get(user, thread_id)
        except errors.NotFoundError:
            sought = {"thread_id": thread_id}
    if not sought:
        return error.detail
    name, value = list(sought.items())[-1]
    return missing(_KINDS[name], value)


def _refusal(error: errors.DomainError) -> Response:
    status = status_of(error)
    if status in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
        status = HTTPStatus.BAD_REQUEST
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after.total_seconds())))
    message = error.detail
    if status == HTTPStatus.UNAUTHORIZED:
        message = "Incorrect API key provided: the key is a token that this server trusts."
        headers["WWW-Authenticate"] = "Bearer"
    return envelope(status, message, code=_CODES.get(status, error.code), headers=headers)


def _invalid(error: RequestValidationError) -> Response:
    found = error.errors()[0]
    if found["type"] == "json_invalid":
        return envelope(400, "We could not parse the JSON body of your request.")
    param = _param(found["loc"])
    said = _said(found, param)
    return envelope(400, said.message, param=param, code=said.code)


def _param(loc: Sequence[Any]) -> str | None:
    """Write a place as the wire does, up to the first name that is the client's own."""
    written = ""
    for at, part in enumerate(loc[1:], 1):
        if part in _TAGS and isinstance(loc[at - 1], int) and at + 1 < len(loc):
            # Which kind of part it is stands in its place, too.
            continue
        if isinstance(part, int):
            written += f"[{part}]"
        elif _NAME.fullmatch(part):
            written += f".{part}" if written else part
        else:
            break
    return written or None


def _said(found: Mapping[str, Any], param: str | None) -> _Said:
    kind, named = found["type"], f"'{param}'" if param else "the body"
    message = str(found["msg"]).removeprefix("Value error, ").rstrip(".")
    limits: Mapping[str, Any] = found.get("ctx", {})
    if kind == "union_tag_invalid":
        # Pydantic's own words repeat what was sent.
        message = f"Supported values of 'type' are {limits['expected_tags']}"
    if kind == "too_long" and limits["field_type"] == "Value":
        # A string whose length is looked at after its characters.
        kind = "string_too_long"
    if kind in _WORDS:
        words, code = _WORDS[kind]
        return _Said(words.format(named, message, **limits), code)
    code = "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
    return _Said(f"Invalid value for {named}: {message}.", code)
