"""The transcript: what was said, and saying more."""

from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.responses import Response

from app.api import examples, present, schemas
from app.api.deps import CurrentUser, MessageId, OptionalRunId, PageOf, Services, SessionId
from app.api.problems import invalid, responses
from app.api.stream import MEDIA_TYPE, EventStreamResponse
from app.domain.models import Part

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
    responses={**_POSTED, **responses(400, 409, 413, 429)},
)
async def post_message(
    services: Services,
    user: CurrentUser,
    session_id: SessionId,
    wanted: schemas.MessageCreate,
    accept: Annotated[str, Header(description="`text/event-stream` for the run's stream.")] = "",
) -> Response:
    """Say something. The answer is a run: poll it, wait for it, or follow its events."""
    content = _parts(wanted, services.users.limits.message_chars)
    wants_stream = MEDIA_TYPE in accept and wanted.run
    if wants_stream:
        services.relay.check_room(user)
    posted = await services.runs.post(
        user,
        session_id,
        content,
        metadata=dict(wanted.metadata),
        wants_run=wanted.run,
        on_active_run=wanted.on_active_run,
    )
    run = posted.run
    if run is None:
        location = f"/v1/sessions/{session_id}/messages/{posted.message.id}"
    else:
        location = f"/v1/sessions/{session_id}/runs/{run.id}"
    if run is not None and wants_stream:
        return EventStreamResponse(services.relay.follow_new_run(user, run), location=location)
    made = {"message": posted.message.body(), "run": run and run.body()}
    return present.body(made, 202, {"Location": location})


def _parts(wanted: schemas.MessageCreate, max_chars: int) -> list[Part]:
    if isinstance(wanted.content, str):
        parts = [Part(wanted.content)]
    else:
        parts = [Part(part.text) for part in wanted.content]
    size = sum(len(part.text) for part in parts)
    if size > max_chars:
        raise invalid(("body", "content"), f"A message has at most {max_chars} characters.")
    if not any(part.text.strip() for part in parts):
        raise invalid(("body", "content"), "A message needs some text.")
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
