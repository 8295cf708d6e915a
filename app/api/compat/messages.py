"""Messages of a thread."""

from collections.abc import Generator
from contextlib import contextmanager

from fastapi import APIRouter
from starlette.responses import Response

from app.api import present
from app.api.compat import bodies, objects
from app.api.compat.deps import Caller, ThreadId
from app.api.compat.errors import WireError, WireRoute
from app.api.deps import MessageId, OptionalRunId, PageOf, Services
from app.domain.errors import SessionBusyError

router = APIRouter(route_class=WireRoute, prefix="/threads/{thread_id}/messages")


@contextmanager
def _idle(thread_id: str, doing: str) -> Generator[None]:
    """Say in the wire's words, which clients look for, that a run is in the way."""
    try:
        yield
    except SessionBusyError as error:
        run_id = error.active_run_id
        raise WireError(f"Can't {doing} {thread_id} while a run {run_id} is active.") from None


@router.post("")
async def create_message(
    user: Caller, services: Services, thread_id: ThreadId, wanted: bodies.MessageCreate
) -> Response:
    """Put a message into a thread that no run is at work on."""
    said = wanted.said(services.users.limits.message_chars)
    with _idle(thread_id, "add messages to"):
        made = await services.threads.say(user, thread_id, said)
    return present.body(objects.message(made.body(), None))


@router.get("")
async def list_messages(
    user: Caller,
    services: Services,
    thread_id: ThreadId,
    page: PageOf,
    run_id: OptionalRunId = None,
) -> Response:
    """List them by age."""
    found = await services.threads.messages(user, thread_id, page, run_id=run_id)
    return objects.page([objects.turn(item) for item in found.items], has_more=found.has_more)


@router.get("/{message_id}")
async def retrieve_message(
    user: Caller, services: Services, thread_id: ThreadId, message_id: MessageId
) -> Response:
    """Return one."""
    return present.body(objects.turn(await services.threads.message(user, thread_id, message_id)))


@router.post("/{message_id}")
async def update_message(
    user: Caller,
    services: Services,
    thread_id: ThreadId,
    message_id: MessageId,
    wanted: bodies.Annotation,
) -> Response:
    """Replace its metadata."""
    if "metadata" not in wanted.model_fields_set:
        return await retrieve_message(user, services, thread_id, message_id)
    metadata = dict(wanted.metadata or {})
    changed = await services.threads.annotate_message(user, thread_id, message_id, metadata)
    return present.body(objects.turn(changed))


@router.delete("/{message_id}")
async def delete_message(
    user: Caller, services: Services, thread_id: ThreadId, message_id: MessageId
) -> Response:
    """Delete it: from the thread, and from what the next run is told."""
    with _idle(thread_id, "delete messages from"):
        await services.threads.delete_message(user, thread_id, message_id)
    return objects.deleted("thread.message", message_id)
