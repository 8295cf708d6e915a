"""The transcript: what was said, and saying more."""

from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.responses import Response

from app.api import examples, present, schemas
from app.api.deps import (
    CurrentUser,
    MessageId,
    OptionalRunId,
    PageOf,
    Repeatable,
    Services,
    SessionId,
)
from app.api.problems import invalid, responses
from app.api.stream import MEDIA_TYPE, EventStreamResponse, is_accepted
from app.domain.errors import NotFoundError, SessionBusyError
from app.domain.models import Part, PartKind, User
from app.services.runs import Posted
from app.services.streams import Stream

router = APIRouter(
    prefix="/v1/sessions/{session_id}/messages",
    tags=["messages"],
    responses=responses(401, 404, 422, 503),
)

_POSTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Stored. With `Accept: text/event-stream`, the run's events (status 200).",
        "model": schemas.PostedOut,
    },
    200: {
        "description": "The run's events, to its end.",
        "content": {MEDIA_TYPE: {"example": examples.EVENTS}},
    },
}


@router.post(
    "",
    status_code=202,
    response_model=schemas.PostedOut,
    responses={**_POSTED, **responses(400, 408, SessionBusyError(examples.RUN["id"]), 413, 429)},
)
async def post_message(  # noqa: PLR0913, PLR0917 - the parts of the request
    services: Services,
    user: CurrentUser,
    session_id: SessionId,
    wanted: schemas.MessageCreate,
    request: Repeatable,
    accept: Annotated[str, Header(description="`text/event-stream` for the run's stream.")] = "",
) -> Response:
    """Say something. The answer is a run: poll it, wait for it, or follow its events."""
    content = _parts(wanted, services.users.limits.message_chars)
    wants_stream = is_accepted(accept) and wanted.run
    posted = await services.runs.post(
        user,
        session_id,
        content,
        metadata=dict(wanted.metadata),
        wants_run=wanted.run,
        wants_stream=wants_stream,
        on_active_run=wanted.on_active_run,
        request=request,
    )
    message, run = posted.body["message"], posted.body["run"]
    if run is None:
        location = f"/v1/sessions/{session_id}/messages/{message['id']}"
    else:
        location = f"/v1/sessions/{session_id}/runs/{run['id']}"
    if wants_stream:
        stream = await _stream(services, user, session_id, posted)
        return EventStreamResponse(stream, location=location)
    return present.body(posted.body, 202, {"Location": location})


async def _stream(services: Services, user: User, session_id: str, posted: Posted) -> Stream:
    """Open the run's stream from its start, also when the request was repeated."""
    if posted.new is not None:
        return services.relay.follow_new_run(user, posted.new)
    stream = await services.relay.follow_run(
        user, session_id, posted.body["run"]["id"], after=None
    )
    if stream is None:
        raise NotFoundError
    return stream


def _parts(wanted: schemas.MessageCreate, max_chars: int) -> list[Part]:
    if isinstance(wanted.content, str):
        parts = [Part(wanted.content)]
    else:
        parts = [
            Part(part.text)
            if isinstance(part, schemas.TextPartIn)
            else Part(kind=PartKind(part.type), file_id=part.file_id)
            for part in wanted.content
        ]
    files = sum(part.file_id is not None for part in parts)
    if files > schemas.MAX_FILES:
        raise invalid(("body", "content"), f"A message has at most {schemas.MAX_FILES} files.")
    size = sum(len(part.text) for part in parts)
    if size > max_chars:
        raise invalid(("body", "content"), f"A message has at most {max_chars} characters.")
    if not files and not any(part.text.strip() for part in parts):
        raise invalid(("body", "content"), "A message needs some text, or a file.")
    return parts


@router.get("", response_model=schemas.TranscriptOut)
async def list_messages(
    services: Services,
    user: CurrentUser,
    session_id: SessionId,
    page: PageOf,
    run_id: OptionalRunId = None,
) -> Response:
    """Read the transcript; messages in progress carry their text up to `last_seq`.

    Follow the session's events after `last_seq`, and nothing is missed.
    """
    found = await services.runs.messages(user, session_id, page, run_id=run_id)
    items = [item.body() for item in found.page.items]
    return present.listing(items, has_more=found.page.has_more, last_seq=found.last_seq)


@router.get("/{message_id}", response_model=schemas.MessageOut)
async def read_message(
    services: Services, user: CurrentUser, session_id: SessionId, message_id: MessageId
) -> Response:
    """Read one message."""
    return present.body((await services.runs.message(user, session_id, message_id)).body())
