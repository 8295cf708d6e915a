"""The sandbox as its command runs it, with the tutor that it ships with."""

import signal
import socket
import subprocess
import sys

import httpx2
import pytest

from tests.contract.sandbox.conftest import KEY, MODEL, Sandbox, until


@pytest.mark.parametrize("port", ["-1", "65536", "99999", "http"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "app", "sandbox", "--port", port], capture_output=True, check=False
    )
    assert refused.returncode == 2
    assert b"--port" in refused.stderr


async def test_the_command_serves_a_tutor_and_says_one_line() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(  # noqa: ASYNC220 - awaited by polling
        [sys.executable, "-m", "app", "sandbox", "--port", str(port), "--tokens-per-second", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            sandbox = Sandbox(port, http)

            async def is_up() -> bool:
                assert process.poll() is None, "it ended by itself"
                try:
                    return (await http.get(f"{sandbox.url}/healthz")).is_success
                except httpx2.ConnectError:
                    return False

            await until(is_up, within_s=60)
            reading = await sandbox.read(model=MODEL, input="Solve 3x + 11 = 14", stream=True)
            assert "x = 1" in reading.text
            await sandbox.fault({"type": "reset"}, path="/v1/models")
            assert (await sandbox.read("/v1/models")).error is not None
            at = {"event": "response.output_text.delta"}
            await sandbox.fault({"type": "reset", "at": at}, path="/v1/responses")
            reading = await sandbox.read(model=MODEL, input="Solve x = 1", stream=True)
            assert reading.error is not None
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=20)
        assert said.decode() == f"sandbox listens on http://127.0.0.1:{port}\n"
    finally:
        process.kill()
        process.wait()
