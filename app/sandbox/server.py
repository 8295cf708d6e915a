"""Runs the sandbox under uvicorn, with a protocol that can cut connections."""

import logging
import socket
from contextlib import suppress

import uvicorn

from app.sandbox.app import create_app
from app.sandbox.config import SandboxConfig
from app.sandbox.planning import Answerer
from app.sandbox.protocol import AbortableProtocol

_GRACE_S = 1
"""Seconds that open streams get on shutdown: nobody's answer depends on a sandbox."""
_log = logging.getLogger(__name__)


class SandboxServer(uvicorn.Server):
    """uvicorn, saying in one line where it listens, and nothing else."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, and log the address; port 0 has become a real one by then."""
        await super().startup(sockets)
        if self.started:
            _log.info("sandbox listens on http://%s:%d", self.config.host, self.bound_port)

    @property
    def bound_port(self) -> int:
        """The port that it listens on, once `started`."""
        return int(self.servers[0].sockets[0].getsockname()[1])


def make_server(
    host: str, port: int, config: SandboxConfig | None = None, tutor: Answerer | None = None
) -> SandboxServer:
    """Make a server that is not running yet.

    Args:
        host: Address to bind.
        port: Port to bind; 0 lets the system choose.
        config: Settings of the sandbox.
        tutor: Whoever finds the words; by default the tutor that solves mathematics.
    """
    return SandboxServer(
        uvicorn.Config(
            create_app(config, tutor),
            host=host,
            port=port,
            http=AbortableProtocol,
            ws="none",
            access_log=False,
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_S,
            timeout_keep_alive=30,
        )
    )


def run(host: str = "127.0.0.1", port: int = 8100, config: SandboxConfig | None = None) -> None:
    """Serve until a signal stops the process."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with suppress(KeyboardInterrupt):
        make_server(host, port, config).run()
