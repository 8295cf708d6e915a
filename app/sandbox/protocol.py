"""A uvicorn protocol that lets the application cut its connection.

ASGI has no word for it: closing early at best sends a clean end. The protocol puts a
callable under `scope["extensions"]["tutor_relay.abort"]` that sets SO_LINGER to zero and
aborts the transport, which sends a TCP reset; bytes that were sent before have left.
"""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT: Final = "tutor_relay.abort"
"""Name of the ASGI extension."""


class AbortableProtocol(HttpToolsProtocol):
    """HTTP/1.1 by httptools, and a way to hang up."""

    def on_message_begin(self) -> None:
        """Offer the extension to the request that begins."""
        super().on_message_begin()
        scope = cast(dict[str, Any], self.scope)
        scope["extensions"] = {ABORT: self._abort}

    def _abort(self) -> None:
        if self.transport.is_closing():
            # The client was quicker: there is no socket any more to set an option of.
            return
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            # A client that went away first left a socket without a descriptor.
            with suppress(OSError, ValueError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def hang_up(scope: Scope) -> None:
    """Reset the connection of a request.

    Raises:
        RuntimeError: Served by something else than `AbortableProtocol`; the server then
            drops the connection because the application failed.
    """
    abort: Callable[[], None] | None = scope.get("extensions", {}).get(ABORT)
    if abort is None:
        raise RuntimeError("this server cannot cut a connection: run app.sandbox.server")
    abort()
