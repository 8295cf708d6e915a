"""The face for frontends in JavaScript: the vendor's SDK from npm, under Node."""

import asyncio
import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.integration.compat.conftest import EQUATION
from tests.integration.compat.test_compat_streams import PLAIN
from tests.stack import Stack, token

HERE = Path(__file__).parent
VERSION = "6"


@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm here")
async def test_the_sdk_for_javascript(shared: Stack, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"type":"module"}')
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", f"openai@{VERSION}"]
    installed = await asyncio.to_thread(
        subprocess.run, install, cwd=tmp_path, capture_output=True, timeout=300, check=False
    )
    if installed.returncode:
        pytest.skip("the registry of npm is out of reach")
    shutil.copy(HERE / "node_face.mjs", tmp_path)
    process = await asyncio.create_subprocess_exec(
        "node",
        "node_face.mjs",
        f"Please solve {EQUATION}",
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "OPENAI_BASE_URL": f"{shared.api_urls[0]}/openai/v1",
            "OPENAI_API_KEY": token(f"user-{uuid.uuid4().hex[:12]}"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    printed, complaints = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, complaints.decode()
    found = json.loads(printed)
    assert all("241" in answer for answer in found["answers"])
    assert found["events"] == [f"thread.{name}" for name in PLAIN[:-1]]
    assert found["paged"] == ["user", "assistant", "user", "assistant"]
    assert found["tools"]["calls"] == ["calculate", "plot"]
    assert '"value":"1/2"' in found["tools"]["told"]
    assert "The plot was made." in found["tools"]["told"]
    assert found["errors"] == [
        ["BadRequestError", 400],
        ["NotFoundError", 404],
        ["BadRequestError", 400],
        ["AuthenticationError", 401],
    ]
