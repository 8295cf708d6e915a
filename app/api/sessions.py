"""Tutoring sessions, and the tickets that open their streams in a browser."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api import present, schemas
from app.api.deps import CurrentUser, NoBody, PageOf, Repeatable, Services, SessionId
from app.api.problems import responses
from app.domain.errors import NotFoundError
from app.domain.ids import is_id
from app.domain.models import SessionStatus
from app.domain.text import rfc3339
from app.ports import SessionChange

router = APIRouter(prefix="/v1/sessions", tags=["sessions"], responses=responses(401, 422, 503))


@router.post(
    "",
    response_model=schemas.SessionOut,
    status_code=201,
    responses=responses(400, 404, 408, 409, 413),
)
async def open_session(
    services: Services, user: CurrentUser, wanted: schemas.SessionCreate, request: Repeatable
) -> Response:
    """Open a session with a tutor, or with the default one."""
    if wanted.assistant_id is not None and not is_id(wanted.assistant_id):
        raise NotFoundError("There is no such assistant.")
    made = await services.sessions.open(
        user,
        assistant_id=wanted.assistant_id,
        title=wanted.title,
        metadata=dict(wanted.metadata),
        request=request,
    )
    return present.body(made, 201, {"Location": f"/v1/sessions/{made['id']}"})


@router.get("", response_model=schemas.ListOut[schemas.SessionOut], responses=responses(404))
async def list_sessions(services: Services, user: CurrentUser, page: PageOf) -> Response:
    """List your sessions by age."""
    found = await services.sessions.list(user, page)
    return present.listing([item.body() for item in found.items], has_more=found.has_more)


@router.get("/{session_id}", response_model=schemas.SessionOut, responses=responses(404))
async def read_session(services: Services, user: CurrentUser, session_id: SessionId) -> Response:
    """Read a session."""
    return present.body((await services.sessions.get(user, session_id)).body())


@router.patch(
    "/{session_id}", response_model=schemas.SessionOut, responses=responses(400, 404, 408, 413)
)
async def update_session(
    services: Services, user: CurrentUser, session_id: SessionId, wanted: schemas.SessionUpdate
) -> Response:
    """Change the title or the metadata, or end the session."""
    change = SessionChange(
        title=wanted.title,
        clear_title="title" in wanted.model_fields_set and wanted.title is None,
        metadata=None if wanted.metadata is None else dict(wanted.metadata),
        status=None if wanted.status is None else SessionStatus(wanted.status),
    )
    return present.body((await services.sessions.change(user, session_id, change)).body())


@router.delete("/{session_id}", status_code=204, responses=responses(404))
async def delete_session(services: Services, user: CurrentUser, session_id: SessionId) -> Response:
    """Delete a session: gone at once here, and upstream as soon as the upstream allows."""
    await services.sessions.delete(user, session_id)
    return Response(status_code=204)


@router.post(
    "/{session_id}/stream_tickets",
    response_model=schemas.TicketOut,
    status_code=201,
    responses=responses(400, 404, 408, 413, 422),
)
async def create_stream_ticket(
    services: Services,
    user: CurrentUser,
    session_id: SessionId,
    _: NoBody = None,
) -> Response:
    """Get a ticket for `?ticket=`: a native EventSource can't send your token.

    It is first used within a minute; then it re-opens this session's streams until the token
    that it was made with expires.
    """
    made = await services.tickets.issue(user, session_id)
    return present.body({"ticket": made.ticket, "expires_at": rfc3339(made.expires_at)}, 201)
