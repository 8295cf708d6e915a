"""Run steps: what a run did, told from the run, its answer and its use of tools."""

from datetime import datetime
from operator import itemgetter
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from app.api import present
from app.api.compat import objects, step_objects
from app.api.compat.deps import Caller, ThreadId
from app.api.compat.errors import WireRoute
from app.api.deps import PageOf, RunId, Services
from app.container import ApiServices
from app.domain.errors import NotFoundError
from app.domain.models import JsonObject, User
from app.domain.text import rfc3339

router = APIRouter(route_class=WireRoute, prefix="/threads/{thread_id}/runs/{run_id}/steps")


def _written(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)


async def _steps(
    services: ApiServices, user: User, thread_id: str, run_id: str
) -> list[JsonObject]:
    """Return a run's steps in their order."""
    run, message, taken = await services.threads.answer(user, thread_id, run_id)
    body = run.body()
    found: list[tuple[int, JsonObject]] = []
    for step in taken:
        if step.kind in step_objects.TOOLS:
            begun, ended = _written(step.begun_at), _written(step.ended_at)
            found.append((step.seq, step_objects.tool_step(body, step.body(), begun, ended)))
    if run.output_message_id is not None:
        begun_at = None if message is None else message.body()["created_at"]
        written = step_objects.message_step(body, run.output_message_id, begun_at)
        found.append((run.seq if message is None else message.seq, written))
    return [step for _, step in sorted(found, key=itemgetter(0))]


@router.get("")
async def list_steps(
    user: Caller, services: Services, thread_id: ThreadId, run_id: RunId, page: PageOf
) -> Response:
    """List a run's steps by age: its answer takes one, and every use of its tools."""
    steps = await _steps(services, user, thread_id, run_id)
    if page.descending:
        steps.reverse()
    start, end = 0, len(steps)
    cursor = page.after or page.before
    if cursor is not None:
        places = [index for index, step in enumerate(steps) if step["id"] == cursor]
        if not places:
            raise NotFoundError("The cursor names no item of this list.")
        start, end = (places[0] + 1, end) if page.after else (0, places[0])
    kept = steps[start:end]
    shown = kept[-page.limit :] if page.before else kept[: page.limit]
    return objects.page(shown, has_more=len(kept) > len(shown))


@router.get("/{step_id}")
async def retrieve_step(
    user: Caller,
    services: Services,
    thread_id: ThreadId,
    run_id: RunId,
    step_id: Annotated[str, Path()],
) -> Response:
    """Return one."""
    for step in await _steps(services, user, thread_id, run_id):
        if step["id"] == step_id:
            return present.body(step)
    raise NotFoundError
