"""Server-sent events: replayed from the log, then followed live.

While the database is away these routes answer 200 and nothing (`problems`): a native
EventSource gives up for good on any other status.
"""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from app.api import examples
from app.api.deps import EventCursor, RunId, Services, SessionId, StreamReader
from app.api.problems import responses
from app.api.stream import MEDIA_TYPE, EventStreamResponse
from app.domain.errors import InvalidCursorError, TooManyStreamsError

router = APIRouter(
    prefix="/v1/sessions/{session_id}",
    tags=["events"],
    responses=responses(InvalidCursorError(), 401, 404, 422, TooManyStreamsError()),
)

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events; a comment every 15 s. Resume with `Last-Event-ID` or `after`.",
        "content": {MEDIA_TYPE: {"example": examples.EVENTS}},
    }
}


@router.get("/events", response_class=EventStreamResponse, responses=_STREAM)
async def follow_session(
    services: Services, user: StreamReader, session_id: SessionId, cursor: EventCursor
) -> Response:
    """Follow a session from now, or after a cursor (`after=0` replays all)."""
    stream = await services.relay.follow_session(user, session_id, after=cursor)
    return EventStreamResponse(stream)


@router.get(
    "/runs/{run_id}/events",
    response_class=EventStreamResponse,
    responses={**_STREAM, 204: {"description": "The run has ended and everything was read."}},
)
async def follow_run(
    services: Services,
    user: StreamReader,
    session_id: SessionId,
    run_id: RunId,
    cursor: EventCursor,
) -> Response:
    """Follow a run from its start, or after a cursor, to its end: then `done`, and it closes."""
    stream = await services.relay.follow_run(user, session_id, run_id, after=cursor)
    if stream is None:
        return Response(status_code=204)
    return EventStreamResponse(stream)
