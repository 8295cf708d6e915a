"""For load balancers and people: is it alive, can it serve."""

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api import present
from app.api.deps import Services
from app.api.problems import responses

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """It is alive."""

    status: str


class Readiness(Health):
    """It can serve."""

    workers: int = Field(description="Workers seen in the last minute; reported, not required.")


# Load balancers and monitors often ask by HEAD.
@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Health)
async def live() -> Response:
    """Tell whether the process is alive."""
    return present.body({"status": "ok"})


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=Readiness, responses=responses(503))
async def ready(services: Services) -> Response:
    """Tell whether the database and its schema are there."""
    return present.body({"status": "ready", "workers": await services.health.ready()})
