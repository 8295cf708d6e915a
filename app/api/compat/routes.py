"""The face as one router; it is left out of our OpenAPI document, the wire has its own."""

from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.compat import (
    assistants,
    files,
    messages,
    models,
    runs,
    steps,
    threads,
    vector_stores,
)
from app.api.compat.errors import WireError, WireRoute

PREFIX: Final = "/openai/v1"

router = APIRouter(prefix=PREFIX, include_in_schema=False)
# `/threads/runs` must be met before `/threads/{thread_id}`.
for _module in (models, assistants, files, vector_stores, runs, steps, messages, threads):
    router.include_router(_module.router)

_rest = APIRouter(route_class=WireRoute)


@_rest.api_route("/{rest:path}", methods=["GET", "POST", "PATCH", "PUT", "DELETE"])
async def no_such_url(request: Request) -> Response:
    """Refuse what the wire has and nothing here does, or what neither has."""
    raise WireError(f"Invalid URL: nothing is served at {request.method} here.", status=404)


router.include_router(_rest)
