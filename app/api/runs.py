"""Runs: answer again, poll, wait, cancel, and hand in what functions returned."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.api import examples, present, schemas
from app.api.deps import CurrentUser, NoBody, PageOf, Repeatable, RunId, Services, SessionId
from app.api.problems import invalid, responses
from app.domain.errors import RunEndedError, SessionBusyError
from app.domain.models import RunStatus
from app.services.actions import ToolOutput

router = APIRouter(
    prefix="/v1/sessions/{session_id}/runs",
    tags=["runs"],
    responses=responses(401, 404, 422, 503),
)

MAX_WAIT_S = 60


@router.post(
    "",
    status_code=202,
    response_model=schemas.RunOut,
    responses=responses(400, 408, SessionBusyError(examples.RUN["id"]), 413, 429),
)
async def create_run(
    services: Services,
    user: CurrentUser,
    session_id: SessionId,
    wanted: schemas.RunCreate,
    request: Repeatable,
) -> Response:
    """Answer the transcript as it stands: messages stored without a run, or the last one again."""
    run = await services.runs.answer_again(
        user,
        session_id,
        metadata=dict(wanted.metadata),
        on_active_run=wanted.on_active_run,
        request=request,
    )
    location = f"/v1/sessions/{session_id}/runs/{run['id']}"
    return present.body(run, 202, {"Location": location})


@router.get("", response_model=schemas.ListOut[schemas.RunOut])
async def list_runs(
    services: Services, user: CurrentUser, session_id: SessionId, page: PageOf
) -> Response:
    """List the runs of a session."""
    found = await services.runs.list(user, session_id, page)
    return present.listing([item.body() for item in found.items], has_more=found.has_more)


@router.get("/{run_id}", response_model=schemas.RunOut)
async def read_run(  # noqa: PLR0913, PLR0917 - the query's parameters
    services: Services,
    user: CurrentUser,
    session_id: SessionId,
    run_id: RunId,
    wait: Annotated[
        float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for a change.")
    ] = 0,
    known: Annotated[
        RunStatus | None, Query(description="The status that you know: any other answers at once.")
    ] = None,
) -> Response:
    """Poll a run, or wait until its status is another, it ends, or it needs something."""
    if wait:
        run = await services.runs.wait(
            user, session_id, run_id, known=known, within=timedelta(seconds=wait)
        )
    else:
        run = await services.runs.get(user, session_id, run_id)
    return present.body(run.body())


@router.post(
    "/{run_id}/cancel",
    status_code=202,
    response_model=schemas.RunOut,
    responses=responses(400, 408, 413, RunEndedError()),
)
async def cancel_run(
    services: Services,
    user: CurrentUser,
    session_id: SessionId,
    run_id: RunId,
    _: NoBody = None,
) -> Response:
    """Cancel a run. What it has said is kept; it may still complete if it was about to."""
    return present.body((await services.runs.cancel(user, session_id, run_id)).body(), 202)


@router.post(
    "/{run_id}/tool_outputs",
    status_code=202,
    response_model=schemas.RunOut,
    responses=responses(400, 408, 409, 413),
)
async def submit_tool_outputs(  # noqa: PLR0913, PLR0917 - the parts of the request
    services: Services,
    user: CurrentUser,
    session_id: SessionId,
    run_id: RunId,
    wanted: schemas.ToolOutputsCreate,
    request: Repeatable,
) -> Response:
    """Hand in what all functions returned that `required_action` names; the run goes on."""
    outputs = [ToolOutput(each.tool_call_id, each.output) for each in wanted.tool_outputs]
    max_chars = services.users.limits.tool_output_chars
    if sum(len(each.output) for each in outputs) > max_chars:
        message = f"The outputs have at most {max_chars} characters together."
        raise invalid(("body", "tool_outputs"), message)
    run = await services.actions.submit_once(user, session_id, run_id, outputs, request)
    return present.body(run, 202)
