"""Processes that `serve` owns on one machine: a Postgres of its own, and the sandbox."""

import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import httpx2

from app.domain.errors import UpstreamError

START_S = 30.0


@contextmanager
def sandbox_process() -> Generator[str]:
    """Run the sandbox while the block lasts; yield its base URL, `/v1` included.

    Raises:
        UpstreamError: It did not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app", "sandbox", "--port", str(port), "--until-eof"]
    # A process group of its own: a Ctrl-C at the terminal ends it after us, not before. Its
    # standard input is ours to close: should we be killed, it ends all the same.
    with subprocess.Popen(  # noqa: S603 - ourselves
        command, stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            _await_health(f"http://127.0.0.1:{port}/healthz", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _await_health(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(url, timeout=1).is_success:
                return
        except httpx2.HTTPError:
            time.sleep(0.1)
    raise UpstreamError("The sandbox did not start.")
