"""Creating requests that their client may send again: done once, answered alike.

The answer commits with what it tells of: a crash between the commit and the answer leaves
nothing for the repeated request to do but to be answered.
"""

import json
from typing import Any

from app.domain.errors import IdempotencyKeyReusedError
from app.domain.events import dump
from app.domain.models import JsonObject, User
from app.ports import RequestKey, UnitOfWork


async def first_answer(
    uow: UnitOfWork, user: User, request: RequestKey | None
) -> JsonObject | None:
    """Return what this request was answered before; None when it is to be done now.

    Must come before any lock and any limit: a repeated request needs room for nothing.

    Raises:
        IdempotencyKeyReusedError: The key came with another body.
        RequestInFlightError: The first request is being answered.
    """
    if request is None:
        return None
    found = await uow.answers.begin(user.id, request)
    if found is None:
        return None
    if found.digest != request.digest:
        raise IdempotencyKeyReusedError
    body: dict[str, Any] = json.loads(found.body)
    return body


async def keep_answer(
    uow: UnitOfWork,
    user: User,
    request: RequestKey | None,
    body: JsonObject,
    *,
    session_id: str | None = None,
) -> JsonObject:
    """Store the answer in the transaction that made what it tells of; return it."""
    if request is not None:
        await uow.answers.keep(user.id, request, dump(body), session_id=session_id)
    return body
