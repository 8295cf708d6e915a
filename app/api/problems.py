"""Errors as RFC 9457 problems: every domain error has a status, and no input is echoed."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.api.middleware import request_id_of
from app.api.stream import come_back
from app.domain import errors
from app.domain.events import dump

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[type[errors.DomainError], int]] = {
    errors.NotFoundError: 404,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.InvalidRequestError: 422,
    errors.InvalidCursorError: 400,
    errors.SessionBusyError: 409,
    errors.SessionEndedError: 409,
    errors.RunEndedError: 409,
    errors.NoActionRequiredError: 409,
    errors.ToolOutputsMismatchError: 422,
    errors.NothingToAnswerError: 409,
    errors.DefaultAssistantError: 409,
    errors.InvalidIdempotencyKeyError: 400,
    errors.IdempotencyKeyReusedError: 422,
    errors.RequestInFlightError: 409,
    errors.TooManyRunsError: 429,
    errors.TooManyStreamsError: 429,
    errors.QueueFullError: 503,
    errors.StorageUnavailableError: 503,
    errors.StorageBusyError: 503,
    errors.ShuttingDownError: 503,
    errors.AuthUnavailableError: 503,
    errors.SchemaBehindError: 503,
    errors.FileRefusedError: 422,
    errors.FileTooLargeError: 413,
    errors.TooManyFilesError: 409,
    errors.TooManyStoresError: 409,
    errors.ResourceRefusedError: 422,
    errors.TooManyUploadsError: 503,
    errors.NotDownloadableError: 409,
    # These stay inside the worker; should one reach the door, it is a fault of ours.
    errors.FencedError: 500,
    errors.UpstreamError: 502,
    errors.UpstreamInterruptedError: 502,
    errors.ThreadBusyError: 502,
    errors.ThreadLostError: 502,
}

NOT_JSON: Final = ("invalid_json", "The body is not valid JSON.")
INVALID: Final = ("invalid_request", "Some fields are not valid.")
METHODS: Final = ("GET", "HEAD", "POST", "PATCH", "DELETE")
COME_BACK: Final = (errors.StorageUnavailableError, errors.ShuttingDownError)
"""On event routes these are an empty stream: an EventSource then tries again."""

_HTTP_CODES: Final = {
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "body_too_slow",
    413: "body_too_large",
    415: "unsupported_media_type",
    503: "overloaded",
}


class FieldError(BaseModel):
    """What is wrong with one field."""

    loc: list[str | int] = Field(description="Where: `body`, `query` or `path`, then names.")
    msg: str = Field(description="What is wrong, in words.")
    type: str = Field(description="What is wrong, as a stable code.")


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "There is no such resource, or it is somebody else's.",
                    "code": "not_found",
                    "request_id": "req_5d0f3a",
                }
            ]
        }
    )
    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; switch on this.")
    request_id: str = Field(description="Also in the `X-Request-ID` header.")
    errors: list[FieldError] | None = Field(None, description="With 422: each field's error.")
    active_run_id: str | None = Field(None, description="With `session_busy`: the run's id.")


def problem(
    request: Request,
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """Render a problem."""
    body = _body(status, code, detail, request_id_of(request.scope), more)
    return Response(dump(body), status, dict(headers or {}), MEDIA_TYPE)


def _body(
    status: int, code: str, detail: str, request_id: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
        **more,
    }


def responses(*refusals: int | errors.DomainError) -> dict[int | str, dict[str, Any]]:
    """Document the problems that a route may answer with, each with an example."""
    found: dict[int | str, dict[str, Any]] = {}
    for refusal in refusals:
        status = refusal if isinstance(refusal, int) else status_of(refusal)
        sample = _SAMPLES.get(status) if isinstance(refusal, int) else refusal
        content = {
            "schema": {"$ref": "#/components/schemas/Problem"},
            "example": _example(status, sample),
        }
        found[status] = {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: content},
        }
    return found


_SAMPLES: Final[Mapping[int, errors.DomainError]] = {
    401: errors.UnauthenticatedError(),
    403: errors.ForbiddenError(),
    404: errors.NotFoundError(),
    409: errors.RequestInFlightError(),
    429: errors.TooManyRunsError(),
    502: errors.UpstreamError(
        "The tutor is not available for the moment.", code="upstream_unavailable"
    ),
    503: errors.StorageUnavailableError(),
}


def _example(status: int, error: errors.DomainError | None) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if error is not None:
        code, detail, more = error.code, error.detail, dict(error.extras())
    elif status == HTTPStatus.BAD_REQUEST:
        code, detail = NOT_JSON
    elif status == HTTPStatus.UNPROCESSABLE_ENTITY:
        code, detail = INVALID
        wrong = {"loc": ["query", "limit"], "msg": "Input should be a valid integer"}
        more["errors"] = [{**wrong, "type": "int_parsing"}]
    else:
        code, detail = _HTTP_CODES[status], HTTPStatus(status).description
    return _body(status, code, detail, "req_5d0f3a9c2b7e4410", more)


def status_of(error: errors.DomainError) -> int:
    """Return the status that belongs to a domain error."""
    return STATUS[type(error)]


async def _domain_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, errors.DomainError):
        raise TypeError
    if isinstance(error, COME_BACK) and request.url.path.endswith("/events"):
        return come_back()
    status = status_of(error)
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after.total_seconds())))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    more: dict[str, Any] = dict(error.extras())
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        more["errors"] = [{"loc": [], "msg": error.detail, "type": error.code}]
    return problem(request, status, error.code, error.detail, headers=headers, **more)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # Bytes that are no text, digits without end, nesting without end: as FastAPI reads it.
        return _not_json(request)
    code = _HTTP_CODES.get(error.status_code, "http_error")
    detail = HTTPStatus(error.status_code).description or HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
    return problem(request, error.status_code, code, detail, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes of a path; a route knows only its own."""
    scope, routes = request.scope, request.app.router.routes
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def _not_json(request: Request) -> Response:
    return problem(request, 400, *NOT_JSON)


async def _validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise TypeError
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return _not_json(request)
    known = request.app.state.field_names
    listed = [
        {"loc": _loc(item["loc"], known), "msg": _message(item), "type": item["type"]}
        for item in found
    ]
    return problem(request, 422, *INVALID, errors=listed)


def invalid(loc: tuple[str, ...], message: str) -> RequestValidationError:
    """Make the error of a field that is well-formed, but asks for what can't be."""
    return RequestValidationError([{"type": "value_error", "loc": loc, "msg": message}])


def _loc(loc: Sequence[Any], known: frozenset[str]) -> list[str | int]:
    """Say where, up to the first name that is the caller's own: input is never echoed."""
    kept: list[str | int] = []
    for part in loc:
        if not isinstance(part, int) and part not in known:
            break
        kept.append(part)
    return kept


def _message(item: Mapping[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return "There is a field here that is not known."
    if item["type"] == "union_tag_invalid":
        # Pydantic's own words repeat what was sent.
        return f"'type' must be one of {item['ctx']['expected_tags']}."
    return str(item["msg"]).removeprefix("Value error, ")


async def fault(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that it is our fault."""
    detail = "Something went wrong on our side."
    await problem(Request(scope), 500, "internal_error", detail)(scope, receive, send)


def install(app: FastAPI) -> None:
    """Render every error of the application as a problem."""
    app.add_exception_handler(errors.DomainError, _domain_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
