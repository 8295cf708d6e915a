"""Threads: sessions, under the same ids."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api import present
from app.api.compat import bodies, objects
from app.api.compat.deps import Caller, ThreadId
from app.api.compat.errors import WireRoute
from app.api.deps import Services
from app.ports import SessionChange

router = APIRouter(route_class=WireRoute)


@router.post("/threads")
async def create_thread(
    user: Caller, services: Services, wanted: bodies.ThreadCreate | None = None
) -> Response:
    """Open a thread, with messages in it if there are any."""
    wanted = wanted or bodies.ThreadCreate()
    said = wanted.said(services.users.limits.message_chars)
    opened = await services.threads.open(user, said, dict(wanted.metadata or {}))
    return present.body(objects.thread(opened.body()))


@router.get("/threads/{thread_id}")
async def retrieve_thread(user: Caller, services: Services, thread_id: ThreadId) -> Response:
    """Return one."""
    return present.body(objects.thread((await services.sessions.get(user, thread_id)).body()))


@router.post("/threads/{thread_id}")
async def update_thread(
    user: Caller, services: Services, thread_id: ThreadId, wanted: bodies.ThreadUpdate
) -> Response:
    """Replace its metadata."""
    metadata = dict(wanted.metadata or {}) if "metadata" in wanted.model_fields_set else None
    change = SessionChange(metadata=metadata)
    changed = await services.sessions.change(user, thread_id, change)
    return present.body(objects.thread(changed.body()))


@router.delete("/threads/{thread_id}")
async def delete_thread(user: Caller, services: Services, thread_id: ThreadId) -> Response:
    """Delete it with all that it holds: gone at once here, and upstream as soon as can be."""
    await services.sessions.delete(user, thread_id)
    return objects.deleted("thread", thread_id)
