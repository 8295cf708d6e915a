"""Assistants: the caller's own, and those of the tenant that the caller may choose."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from app.api import present
from app.api.compat import bodies, objects
from app.api.compat.deps import Caller
from app.api.compat.errors import WireRoute
from app.api.deps import AssistantId, PageOf, Services
from app.container import ApiServices
from app.domain.models import AssistantConfig, User

router = APIRouter(route_class=WireRoute)


async def _changes(
    services: ApiServices, user: User, wanted: bodies.AssistantBase
) -> dict[str, Any]:
    """Return what is to change; a vector store that is to be searched is made first."""
    changes, new_store = wanted.changes(), wanted.new_store()
    if new_store is not None:
        made = await services.stores.create(user, new_store.wanted())
        changes["tool_resources"]["file_search"] = {"vector_store_ids": [made.id]}
    return changes


@router.post("/assistants")
async def create_assistant(
    user: Caller, services: Services, wanted: bodies.AssistantCreate
) -> Response:
    """Make an assistant that is the caller's own."""
    unnamed: dict[str, Any] = {"name": None, "description": None, "instructions": None}
    services.assistants.check_own_allowed()
    config = AssistantConfig(**(unnamed | await _changes(services, user, wanted)))
    made = await services.assistants.create_own(user, config, dict(wanted.metadata or {}))
    return present.body(objects.assistant(user, made))


@router.get("/assistants")
async def list_assistants(user: Caller, services: Services, page: PageOf) -> Response:
    """List the caller's own, and those of the tenant."""
    found = await services.assistants.list(user, page)
    items = [objects.assistant(user, item) for item in found.items]
    return objects.page(items, has_more=found.has_more)


@router.get("/assistants/{assistant_id}")
async def retrieve_assistant(
    user: Caller, services: Services, assistant_id: AssistantId
) -> Response:
    """Return one."""
    return present.body(objects.assistant(user, await services.assistants.get(user, assistant_id)))


@router.post("/assistants/{assistant_id}")
async def update_assistant(
    user: Caller, services: Services, assistant_id: AssistantId, wanted: bodies.AssistantUpdate
) -> Response:
    """Write its next version; runs keep the one that they began with."""
    metadata = dict(wanted.metadata or {}) if "metadata" in wanted.model_fields_set else None
    if wanted.new_store() is not None:
        await services.assistants.get(user, assistant_id)
    changes = await _changes(services, user, wanted)
    updated = await services.assistants.update(user, assistant_id, changes, metadata)
    return present.body(objects.assistant(user, updated))


@router.delete("/assistants/{assistant_id}")
async def delete_assistant(
    user: Caller, services: Services, assistant_id: AssistantId
) -> Response:
    """Delete it; runs that wait still have it."""
    await services.assistants.delete(user, assistant_id)
    return objects.deleted("assistant", assistant_id)
