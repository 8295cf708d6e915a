"""Every request for an answer, in the order of arrival: what was asked, and how it was met.

A tester compares it with what a client says that it asked for; a resource's counters can't tell
one question from another.
"""

import json
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Final

from starlette.types import Message, Send

from app.sandbox.jsonio import is_array, is_object

KEPT: Final = 20_000
KEPT_CHARS: Final = 1_000
_REFUSED: Final = 400


@dataclass(slots=True)
class Post:
    """One `POST /v1/responses`.

    Attributes:
        text: What the newest message of the request's own input says, its beginning.
        status: The answer's status; None when the connection was cut before one.
        refusal: The code, or else the message, of an answer that is an error.
    """

    text: str
    status: int | None = None
    refusal: str | None = None

    def watch(self, send: Send) -> Send:
        """Return an ASGI `send` that notes how the request is met."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            elif self.status is not None and self.status >= _REFUSED and self.refusal is None:
                self.refusal = _refusal(message.get("body", b""))
            await send(message)

        return noting


class Ledger:
    """The newest requests of one sandbox."""

    def __init__(self) -> None:
        self.posts: deque[Post] = deque(maxlen=KEPT)

    def add(self, body: object) -> Post:
        """Note a request as it arrives."""
        post = Post(_newest(body)[:KEPT_CHARS])
        self.posts.append(post)
        return post

    def body(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {"object": "list", "data": [asdict(post) for post in self.posts]}


def _newest(body: object) -> str:
    items = body.get("input") if is_object(body) else None
    if isinstance(items, str):
        return items
    newest = items[-1] if is_array(items) and items else None
    content = newest.get("content") if is_object(newest) else None
    if isinstance(content, str):
        return content
    if not is_array(content):
        return ""
    return "\n".join(str(part["text"]) for part in content if is_object(part) and "text" in part)


def _refusal(body: bytes) -> str | None:
    try:
        found: Any = json.loads(body)
        error: dict[str, Any] = found["error"]
        code = error.get("code") or error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # A fault rule may answer anything.
    return None if code is None else str(code)
