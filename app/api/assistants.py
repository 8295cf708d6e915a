"""Tutors: read by all in the tenant, written with the scope `assistants:write`.

Those that users made over the Assistants-compatible face are here too, for their owners alone.
"""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from app.api import present, schemas
from app.api.deps import AssistantId, CurrentUser, PageOf, Repeatable, Services
from app.api.problems import responses
from app.domain.errors import DefaultAssistantError
from app.domain.models import Assistant, AssistantConfig, User
from app.services.assistants import may_read

router = APIRouter(
    prefix="/v1/assistants", tags=["assistants"], responses=responses(401, 422, 503)
)


def _body(user: User, assistant: Assistant) -> dict[str, Any]:
    return assistant.body(with_instructions=may_read(user, assistant.owner_id))


@router.get("", response_model=schemas.ListOut[schemas.AssistantOut], responses=responses(404))
async def list_assistants(services: Services, user: CurrentUser, page: PageOf) -> Response:
    """List the tutors that you may choose."""
    found = await services.assistants.list(user, page)
    items = [_body(user, assistant) for assistant in found.items]
    return present.listing(items, has_more=found.has_more)


@router.post(
    "",
    response_model=schemas.AssistantOut,
    status_code=201,
    responses=responses(400, 403, 408, 409, 413),
)
async def create_assistant(
    services: Services, user: CurrentUser, wanted: schemas.AssistantCreate, request: Repeatable
) -> Response:
    """Make a new tutor for the tenant. Needs scope `assistants:write`."""
    fields = wanted.model_dump()
    metadata = fields.pop("metadata")
    made = await services.assistants.create(
        user, AssistantConfig(**fields), metadata, request=request
    )
    return present.body(made, 201, {"Location": f"/v1/assistants/{made['id']}"})


@router.get("/{assistant_id}", response_model=schemas.AssistantOut, responses=responses(404))
async def read_assistant(
    services: Services, user: CurrentUser, assistant_id: AssistantId
) -> Response:
    """Read a tutor."""
    return present.body(_body(user, await services.assistants.get(user, assistant_id)))


@router.patch(
    "/{assistant_id}",
    response_model=schemas.AssistantOut,
    responses=responses(400, 403, 404, 408, 413),
)
async def update_assistant(
    services: Services,
    user: CurrentUser,
    assistant_id: AssistantId,
    wanted: schemas.AssistantUpdate,
) -> Response:
    """Write a tutor's next version; runs keep the version that they began with."""
    changes = wanted.model_dump(exclude_unset=True)
    metadata = changes.pop("metadata", None)
    updated = await services.assistants.update(user, assistant_id, changes, metadata)
    return present.body(_body(user, updated))


@router.delete(
    "/{assistant_id}", status_code=204, responses=responses(403, 404, DefaultAssistantError())
)
async def delete_assistant(
    services: Services, user: CurrentUser, assistant_id: AssistantId
) -> Response:
    """Delete a tutor; one that was used is archived, and its sessions go on with it."""
    await services.assistants.delete(user, assistant_id)
    return Response(status_code=204)
