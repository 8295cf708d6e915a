"""Run steps: what a run did, told from the run and its answer."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from app.api import present
from app.api.compat import objects
from app.api.compat.deps import Caller, ThreadId
from app.api.compat.errors import WireRoute
from app.api.deps import PageOf, RunId, Services
from app.container import ApiServices
from app.domain.errors import NotFoundError
from app.domain.models import JsonObject, User

router = APIRouter(route_class=WireRoute, prefix="/threads/{thread_id}/runs/{run_id}/steps")


async def _steps(
    services: ApiServices, user: User, thread_id: str, run_id: str
) -> list[JsonObject]:
    run, message = await services.threads.answer(user, thread_id, run_id)
    if run.output_message_id is None:
        return []
    begun_at = None if message is None else message.body()["created_at"]
    return [objects.step(run.body(), run.output_message_id, begun_at)]


@router.get("")
async def list_steps(
    user: Caller, services: Services, thread_id: ThreadId, run_id: RunId, page: PageOf
) -> Response:
    """List a run's steps; an answer takes one."""
    steps = await _steps(services, user, thread_id, run_id)
    cursor = page.after or page.before
    if cursor is None:
        return objects.page(steps, has_more=False)
    if cursor not in {step["id"] for step in steps}:
        raise NotFoundError("The cursor names no item of this list.")
    return objects.page([], has_more=False)


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
