"""What a route of the face may ask for, named by what it promises."""

import re
from typing import Annotated, Final

from fastapi import Depends, Header, Path, Request

from app.api.compat.errors import WireError
from app.api.deps import CurrentUser, path_id
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


async def _thread_id(thread_id: Annotated[str, Path()]) -> str:
    return path_id(thread_id)


ThreadId = Annotated[str, Depends(_thread_id)]
"""It, and every other id, comes after the caller: what there is none of is told to nobody else."""


async def _cursor(last_event_id: Annotated[str, Header()] = "") -> tuple[int, int]:
    if not last_event_id:
        return (0, 0)
    found = _CURSOR.fullmatch(last_event_id)
    if found is None:
        raise WireError("Invalid 'Last-Event-ID': it is no id of this stream.")
    return int(found[1]), int(found[2])


WireCursor = Annotated[tuple[int, int], Depends(_cursor)]
"""After which event of the wire a stream goes on."""
