"""Models: those of the assistants that the caller may use. The upstream may know others."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api import present
from app.api.compat.deps import Caller
from app.api.compat.errors import WireError, WireRoute
from app.api.deps import Services
from app.container import ApiServices
from app.domain.models import JsonObject, User
from app.ports import PageQuery

router = APIRouter(route_class=WireRoute)


async def _models(services: ApiServices, user: User) -> dict[str, JsonObject]:
    found = await services.assistants.list(user, PageQuery(limit=100, descending=False))
    models: dict[str, JsonObject] = {}
    for item in found.items:
        made = {"object": "model", "created": int(item.created_at.timestamp())}
        models.setdefault(
            item.config.model, {"id": item.config.model, **made, "owned_by": "tutor-relay"}
        )
    return models


@router.get("/models")
async def list_models(user: Caller, services: Services) -> Response:
    """List them."""
    models = await _models(services, user)
    return present.body({"object": "list", "data": list(models.values())})


@router.get("/models/{model:path}")
async def retrieve_model(user: Caller, services: Services, model: str) -> Response:
    """Return one."""
    found = (await _models(services, user)).get(model)
    if found is None:
        raise WireError(
            "No assistant of yours uses such a model.", status=404, code="model_not_found"
        )
    return present.body(found)
