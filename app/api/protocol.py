"""HTTP/1.1 with a way to hang up, which ASGI has no word for.

A reader that does not read must lose its connection: closing it in order waits until the reader
has read what is buffered, so that whoever never reads keeps sockets and buffers for good.
"""

from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_ABORT: Final = "tutor_relay.abort"


class AbortableProtocol(HttpToolsProtocol):
    """uvicorn's protocol; each request knows how to drop its connection."""

    def on_message_begin(self) -> None:
        """Offer it to the request that begins."""
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {_ABORT: self.transport.abort}


def hang_up(scope: Scope) -> None:
    """Drop the connection and what is buffered for it, where the server can."""
    abort = scope.get("extensions", {}).get(_ABORT)
    if abort is not None:
        abort()
