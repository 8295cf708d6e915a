"""The Files endpoints."""

import time
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.sandbox.context import context_of
from app.sandbox.errors import ApiError, invalid
from app.sandbox.jsonio import json_response
from app.sandbox.multipart import Field, read_form
from app.sandbox.pages import page
from app.sandbox.state import StoredFile

PURPOSES: Final = ("fine-tune", "assistants", "batch", "user_data", "vision", "evals")
"""What a client may upload for."""
KEPT_TO_ITSELF: Final = frozenset({"assistants", "user_data", "vision"})
"""Purposes whose content the upstream does not give back."""
MAX_PAGE: Final = 10_000
_KNOWN: Final = frozenset(
    {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"},
)
_LIFE_S: Final = range(3600, 2_592_001)
_BATCH_LIFE_S: Final = 30 * 24 * 3600


async def create(request: Request) -> Response:
    """Keep a file."""
    context = context_of(request)
    form = await read_form(request, context.config.max_file_bytes)
    for name in form:
        if name not in _KNOWN:
            raise ApiError(
                400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter"
            )
    for name in ("file", "purpose"):
        if name not in form:
            raise ApiError(400, f"'{name}' is a required property")
    purpose = form["purpose"].content.decode(errors="replace")
    if purpose not in PURPOSES:
        raise ApiError(400, f"'{purpose}' is not one of {list(PURPOSES)} - 'purpose'")
    file = form["file"]
    if not file.filename:
        raise invalid("file", "a file with a name")
    if not file.content:
        raise ApiError(400, "File is empty.", param="file", code="empty_file")
    life_s = _life_s(form, purpose)
    expires_at = None if life_s is None else int(time.time()) + life_s
    state = context.state
    if state.file_bytes + len(file.content) > context.config.max_files_bytes:
        raise ApiError(
            403, "You exceeded your organization's storage limit.", code="storage_limit_exceeded"
        )
    return json_response(
        state.new_file(file.filename, file.content, purpose, expires_at=expires_at).body()
    )


def _life_s(form: Mapping[str, Field], purpose: str) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return _BATCH_LIFE_S if purpose == "batch" else None
    if anchor is None or anchor.content != b"created_at":
        raise invalid("expires_after.anchor", "created_at")
    value = b"" if seconds is None else seconds.content
    if not value.isdigit() or int(value[:9]) not in _LIFE_S:
        raise invalid("expires_after.seconds", f"from {_LIFE_S[0]} to {_LIFE_S[-1]}")
    return int(value)


async def list_files(request: Request) -> Response:
    """List files, the newest first unless asked otherwise."""
    query = request.query_params
    purpose = query.get("purpose")
    found = [
        each.body()
        for each in context_of(request).state.living_files()
        if purpose in {None, "", each.purpose}
    ]
    return json_response(page(found, query, most=MAX_PAGE, default=MAX_PAGE))


async def retrieve(request: Request) -> Response:
    """Read what is known of a file."""
    return json_response(_file(request).body())


async def content(request: Request) -> Response:
    """Give the content back, unless the purpose forbids it."""
    file = _file(request)
    if file.purpose in KEPT_TO_ITSELF:
        raise ApiError(400, f"Not allowed to download files of purpose: {file.purpose}")
    return Response(file.content, media_type="application/octet-stream")


async def delete(request: Request) -> Response:
    """Delete a file."""
    file = _file(request)
    context_of(request).state.delete_file(file.id)
    return json_response({"id": file.id, "object": "file", "deleted": True})


def _file(request: Request) -> StoredFile:
    return context_of(request).state.file(request.path_params["file_id"])


ROUTES = [
    Route("/v1/files", create, methods=["POST"]),
    Route("/v1/files", list_files, methods=["GET"]),
    Route("/v1/files/{file_id}", retrieve, methods=["GET"]),
    Route("/v1/files/{file_id}", delete, methods=["DELETE"]),
    Route("/v1/files/{file_id}/content", content, methods=["GET"]),
]
