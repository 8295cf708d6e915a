"""What a route of the face may ask for, named by what it promises."""

import re
from typing import Annotated, Final

from fastapi import Depends, Header, Path, Request

from app.api.compat.errors import WireError
from app.api.deps import CurrentUser
from app.domain.errors import NotFoundError
from app.domain.ids import is_id
from app.domain.models import User

BETA: Final = "assistants=v2"
_CURSOR: Final = re.compile(r"([0-9]{1,18})\.([0-9]{1,3})")


async def _caller(
    request: Request,
    user: CurrentUser,
    openai_beta: Annotated[str, Header()] = BETA,
) -> User:
    # Version 1 had other fields by the same names: half of it would seem to work.
    if "assistants=" in openai_beta and BETA not in openai_beta:
        raise WireError(
            f"Only version 2 is served: set the header 'OpenAI-Beta: {BETA}'.", code="invalid_beta"
        )
    request.state.user = user
    return user


Caller = Annotated[User, Depends(_caller)]
"""The user whose token is the API key; otherwise 401."""


def _path_id(value: str) -> str:
    # What can't be an id names nothing, and is not looked up.
    if not is_id(value):
        raise NotFoundError
    return value


async def _thread_id(thread_id: Annotated[str, Path()]) -> str:
    return _path_id(thread_id)


async def _assistant_id(assistant_id: Annotated[str, Path()]) -> str:
    return _path_id(assistant_id)


async def _message_id(message_id: Annotated[str, Path()]) -> str:
    return _path_id(message_id)


async def _run_id(run_id: Annotated[str, Path()]) -> str:
    return _path_id(run_id)


# The caller comes first: what there is none of is told to nobody else.
ThreadId = Annotated[str, Depends(_thread_id)]
AssistantId = Annotated[str, Depends(_assistant_id)]
MessageId = Annotated[str, Depends(_message_id)]
RunId = Annotated[str, Depends(_run_id)]


async def _cursor(last_event_id: Annotated[str, Header()] = "") -> tuple[int, int]:
    if not last_event_id:
        return (0, 0)
    found = _CURSOR.fullmatch(last_event_id)
    if found is None:
        raise WireError("Invalid 'Last-Event-ID': it is no id of this stream.")
    return int(found[1]), int(found[2])


WireCursor = Annotated[tuple[int, int], Depends(_cursor)]
"""After which event of the wire a stream goes on."""
