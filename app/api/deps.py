"""What a route may ask for, named by what it promises. Refusals happen here.

All are coroutines, also where they await nothing: FastAPI runs plain functions in threads, and
a hop there and back costs more than the rest of a poll.
"""

import hashlib
import re
from typing import Annotated

from fastapi import Body, Depends, Header, Path, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import StringConstraints

from app.api.problems import invalid
from app.api.schemas import Nothing
from app.container import ApiServices
from app.domain.errors import (
    InvalidCursorError,
    InvalidIdempotencyKeyError,
    NotFoundError,
    UnauthenticatedError,
)
from app.domain.ids import is_id
from app.domain.models import User
from app.ports import PageQuery, RequestKey

MAX_CURSOR_DIGITS = 18
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

_bearer = HTTPBearer(auto_error=False, description="A JWT with `sub` and `exp`.")


async def _services(request: Request) -> ApiServices:
    found: ApiServices = request.app.state.services
    return found


Services = Annotated[ApiServices, Depends(_services)]
"""The use cases."""

_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def _current_user(services: Services, credentials: _Credentials) -> User:
    if credentials is None:
        raise UnauthenticatedError
    return await services.users.authenticate(credentials.credentials)


CurrentUser = Annotated[User, Depends(_current_user)]
"""The user that a valid bearer token speaks for; otherwise 401."""


def path_id(value: str) -> str:
    """Return what a path names; what can't be an id names nothing, and is not looked up.

    Raises:
        NotFoundError: It can't be an id.
    """
    if not is_id(value):
        raise NotFoundError
    return value


async def _session_id(session_id: Annotated[str, Path()]) -> str:
    return path_id(session_id)


async def _assistant_id(assistant_id: Annotated[str, Path()]) -> str:
    return path_id(assistant_id)


async def _message_id(message_id: Annotated[str, Path()]) -> str:
    return path_id(message_id)


async def _file_id(file_id: Annotated[str, Path()]) -> str:
    return path_id(file_id)


async def _run_id(run_id: Annotated[str, Path()]) -> str:
    return path_id(run_id)


SessionId = Annotated[str, Depends(_session_id)]
AssistantId = Annotated[str, Depends(_assistant_id)]
MessageId = Annotated[str, Depends(_message_id)]
RunId = Annotated[str, Depends(_run_id)]
FileId = Annotated[str, Depends(_file_id)]


async def _reader(
    services: Services,
    credentials: _Credentials,
    session_id: SessionId,
    ticket: Annotated[
        str | None, Query(description="A stream ticket, for a native EventSource.")
    ] = None,
) -> User:
    if credentials is not None:
        return await services.users.authenticate(credentials.credentials)
    if ticket is not None:
        return await services.tickets.redeem(ticket, session_id)
    raise UnauthenticatedError


StreamReader = Annotated[User, Depends(_reader)]
"""The user that a bearer token, or a ticket for this session, speaks for; otherwise 401."""


_IdempotencyKey = Annotated[
    str | None,
    Header(
        description="Yours, of at most 255 visible ASCII characters: sent again within a "
        "day with the same body, the request is answered as the first time."
    ),
]


async def _upload_key(
    request: Request, idempotency_key: _IdempotencyKey = None
) -> RequestKey | None:
    if idempotency_key is None:
        return None
    if _KEY.fullmatch(idempotency_key) is None:
        raise InvalidIdempotencyKeyError
    return RequestKey(f"{request.method} {request.url.path}", idempotency_key, b"")


UploadKey = Annotated[RequestKey | None, Depends(_upload_key)]
"""As `Repeatable`, of a body that is read later, and not whole: its digest is yet to be made."""


async def _repeatable(
    request: Request, key: UploadKey, idempotency_key: _IdempotencyKey = None
) -> RequestKey | None:
    if key is None or idempotency_key is None:
        return None
    digest = hashlib.sha256(await request.body()).digest()
    return RequestKey(key.route, key.key, digest)


Repeatable = Annotated[RequestKey | None, Depends(_repeatable)]
NoBody = Annotated[
    Nothing | None, Body(title="Nothing", openapi_examples={"nothing": {"value": {}}})
]
"""A body that says nothing, or none."""
"""What makes a creating request recognisable when it is sent again, if its client wants that."""


async def _page(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    after: Annotated[str | None, Query(description="An item's id.")] = None,
    before: Annotated[str | None, Query(description="An item's id.")] = None,
) -> PageQuery:
    if after is not None and before is not None:
        raise invalid(("query", "before"), "Give `after` or `before`, not both.")
    for cursor in (after, before):
        if cursor is not None and not is_id(cursor):
            raise NotFoundError("The cursor names no item of this list.")
    return PageQuery(limit, order == "desc", after, before)


PageOf = Annotated[PageQuery, Depends(_page)]
"""Which items of a list are asked for."""


async def _cursor(
    after: Annotated[str | None, Query(description="Events after this `seq`.")] = None,
    last_event_id: Annotated[
        str | None, Header(description="As an EventSource sends it; wins over `after`.")
    ] = None,
) -> int | None:
    # A browser that has seen no id yet sends none, some an empty one.
    text = last_event_id or after
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_CURSOR_DIGITS):
        raise InvalidCursorError
    return int(text)


EventCursor = Annotated[int | None, Depends(_cursor)]
"""After which event a stream goes on."""

OptionalRunId = Annotated[
    Annotated[str, StringConstraints(pattern="^[0-9A-Za-z_]{1,128}$")] | None,
    Query(description="Only those of this run."),
]
