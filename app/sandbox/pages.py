"""Cursor pages: `limit`, `order`, `after`, answered with `first_id`, `last_id`."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.datastructures import QueryParams

from app.sandbox.errors import ApiError, invalid
from app.sandbox.items import Item

MAX_LIMIT: Final = 100
DEFAULT_LIMIT: Final = 20


def page(
    items: Sequence[Item],
    query: QueryParams,
    *,
    most: int = MAX_LIMIT,
    default: int = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """Cut a page out of items that are in their order of creation.

    Args:
        items: All that there are.
        query: The request's `limit`, `order` and `after`.
        most: The greatest `limit`.
        default: The `limit` of a request without one.

    Raises:
        ApiError: A parameter is out of range, or the cursor unknown.
    """
    limit = _limit(query.get("limit"), most, default)
    order = query.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise invalid("order", "asc or desc")
    ordered = list(items) if order == "asc" else list(reversed(items))
    after = query.get("after")
    if after:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise ApiError(404, f"Item with id '{after}' not found.", param="after")
        ordered = ordered[ids.index(after) + 1 :]
    data = ordered[:limit]
    return {
        "object": "list",
        "data": data,
        # an empty page has no ids; strict clients want strings nevertheless
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
        "has_more": len(ordered) > limit,
    }


def _limit(value: str | None, most: int, default: int) -> int:
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= most:
        raise invalid("limit", f"an integer from 1 to {most}")
    return int(value)
