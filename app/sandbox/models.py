"""The Models endpoints: any model name is accepted, these are listed."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox.errors import ApiError
from app.sandbox.jsonio import json_response

_MODELS: Final = ("gpt-5-mini", "gpt-5", "gpt-4o-mini", "offline-tutor")
_CREATED: Final = 1_767_225_600


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "sandbox"}


async def list_models(request: Request) -> Response:
    """List the models."""
    _ = request
    return json_response({"object": "list", "data": [_model(name) for name in _MODELS]})


async def retrieve(request: Request) -> Response:
    """Read one model."""
    name = request.path_params["model"]
    if name not in _MODELS:
        raise ApiError(
            404, f"The model '{name}' does not exist", param="model", code="model_not_found"
        )
    return json_response(_model(name))


ROUTES = [
    Route("/v1/models", list_models, methods=["GET"]),
    Route("/v1/models/{model}", retrieve, methods=["GET"]),
]
