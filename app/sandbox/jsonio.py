"""JSON in and out as bytes, and the validation that every endpoint shares."""

import json
from typing import Any, TypeGuard, cast

from starlette.requests import Request
from starlette.responses import Response

from app.sandbox.errors import ApiError, invalid

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512


def dump(value: object) -> bytes:
    """Encode compactly as UTF-8; lone surrogates of a careless client stay escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def json_response(value: object, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(dump(value), status, media_type="application/json")


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a JSON value is an object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Tell whether a JSON value is an array."""
    return isinstance(value, list)


async def read_json(request: Request, limit: int) -> object:
    """Read any JSON from the body.

    Raises:
        ApiError: It is too large, or no JSON.
    """
    body = await request.body()
    if len(body) > limit:
        raise ApiError(413, "Request body is too large.")
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(
            400, "We could not parse the JSON body of your request.", code="invalid_json"
        ) from error
    return value


async def read_object(request: Request, limit: int, *, optional: bool = False) -> dict[str, Any]:
    """Read a JSON object from the body.

    Raises:
        ApiError: It is too large, no JSON, or no object.
    """
    if optional and not await request.body():
        return {}
    value = await read_json(request, limit)
    if not is_object(value):
        raise ApiError(400, "The body of your request must be a JSON object.")
    return value


def read_metadata(body: dict[str, Any]) -> dict[str, str]:
    """Read `metadata` within the documented limits.

    Raises:
        ApiError: It is not an object of short strings.
    """
    value = body.get("metadata")
    if value is None:
        return {}
    if not is_object(value) or len(value) > MAX_METADATA_PAIRS:
        raise invalid("metadata", f"an object with at most {MAX_METADATA_PAIRS} pairs")
    for key, entry in value.items():
        if not isinstance(entry, str) or len(entry) > MAX_METADATA_VALUE:
            raise invalid(f"metadata.{key[:80]}", f"a string of at most {MAX_METADATA_VALUE}")
        if len(key) > MAX_METADATA_KEY:
            raise invalid("metadata", f"keys of at most {MAX_METADATA_KEY} characters")
    return cast(dict[str, str], value)
