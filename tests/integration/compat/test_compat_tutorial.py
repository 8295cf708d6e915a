"""The tutorial's own cells, unchanged, with the SDK that they were written for and today's."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.stack import ROOT, Stack, token

HERE = Path(__file__).parent
THEN = ("openai==1.34.0", "httpx<0.28", "ipython", "python-dotenv")
KEPT = ("PATH", "HOME", "LANG", "SSL_CERT_FILE")


async def run_tutorial(python: Path, shared: Stack, folder: Path) -> Any:
    """Run the cells with the SDK that an interpreter has; return what they found."""
    found = folder / "answers.json"
    env = {name: os.environ[name] for name in KEPT if name in os.environ} | {
        "OPENAI_BASE_URL": f"{shared.api_urls[0]}/openai/v1",
        "OPENAI_API_KEY": token(f"user-{uuid.uuid4().hex[:12]}"),
        "PYTHONUTF8": "1",
        "IPYTHONDIR": str(folder / "ipython"),
    }
    process = await asyncio.create_subprocess_exec(
        python,
        HERE / "tutorial_runner.py",
        HERE / "tutorial_cells.txt",
        found,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, printed.decode()
    return json.loads(found.read_text())


def check(found: Any) -> None:
    """Both answers are right, and the second knows what it explains."""
    first, second = found["answers"]
    for answer in (first, second):
        assert "\\frac{-11 + \\sqrt{241}}{6}" in answer
        assert "\\frac{-11 - \\sqrt{241}}{6}" in answer
        assert "해" in answer
    assert len(second) > len(first)
    assert found["status"] == "completed"
    assert found["deltas"] == found["message"]
    assert "241" in found["deltas"]


async def test_with_todays_sdk(shared: Stack, tmp_path: Path) -> None:
    found = await run_tutorial(Path(sys.executable), shared, tmp_path)
    assert found["version"] == openai.__version__
    check(found)


@pytest.mark.timeout(600)
async def test_with_the_sdk_that_it_was_written_for(shared: Stack, tmp_path: Path) -> None:
    python = tmp_path / "then" / "bin" / "python"
    make = [sys.executable, "-m", "venv", str(tmp_path / "then")]
    await asyncio.to_thread(subprocess.run, make, check=True, cwd=ROOT)
    install = [str(python), "-m", "pip", "install", "--quiet", *THEN]
    installed = await asyncio.to_thread(
        subprocess.run, install, capture_output=True, text=True, timeout=400, check=False
    )
    if installed.returncode:
        pytest.skip(f"the package index is out of reach: {installed.stderr.strip()[-200:]}")
    found = await run_tutorial(python, shared, tmp_path)
    assert found["version"] == "1.34.0"
    check(found)
