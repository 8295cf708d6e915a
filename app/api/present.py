"""Domain values as responses: the same bytes as in the event log."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from app.domain.events import dump

JSON = "application/json"


def body(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a JSON body."""
    return Response(dump(value), status, headers, JSON)


def listing(items: Sequence[Mapping[str, Any]], *, has_more: bool, **more: Any) -> Response:
    """Answer with a page of a list."""
    return body(
        {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"] if items else None,
            "last_id": items[-1]["id"] if items else None,
            "has_more": has_more,
            **more,
        }
    )
