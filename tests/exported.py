"""Exported threads as files have them, and the command that takes them."""

import asyncio
import json
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.stack import ROOT, SECRET

WORDS = "pythagoras-canary"
T0 = 1_722_441_131


def thread(thread_id: str = "thread_1", **fields: Any) -> dict[str, Any]:
    return {"id": thread_id, "object": "thread", "created_at": T0, "metadata": {}} | fields


def said(number: int, text: str, *, of: str = "thread_1", **fields: Any) -> dict[str, Any]:
    """A message of the user; with `run_id`, of the assistant."""
    return {
        "id": f"msg_{of}_{number}",
        "object": "thread.message",
        "created_at": T0 + number,
        "thread_id": of,
        "role": "assistant" if "run_id" in fields else "user",
        "status": "completed",
        "run_id": None,
        "content": [{"type": "text", "text": {"value": text, "annotations": []}}],
        "attachments": [],
        "metadata": {},
    } | fields


def run(number: int, *, of: str = "thread_1", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"run_{of}_{number}",
        "object": "thread.run",
        "created_at": T0 + number,
        "thread_id": of,
        "assistant_id": "asst_old",
        "status": "completed",
        "started_at": T0 + number,
        "completed_at": T0 + number + 1,
        "model": "gpt-4o",
        "last_error": None,
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "metadata": {},
    } | fields


def named() -> str:
    """Return the id of a thread that no other test has."""
    return f"thread_{uuid.uuid4().hex}"


def dialogue(of: str = "thread_1", *, turns: int = 2) -> list[dict[str, Any]]:
    """A thread of so many questions with their answers."""
    told = [thread(of)]
    for turn in range(turns):
        start = 10 * turn
        told += [
            said(start, f"question {turn} {WORDS}", of=of),
            run(start + 1, of=of),
            said(start + 2, f"answer {turn}", of=of, run_id=f"run_{of}_{start + 1}"),
        ]
    return told


class Imported:
    """What the command said."""

    def __init__(self, code: int, out: bytes, errors: bytes, folder: Path) -> None:
        self.code, self.out, self.errors = code, out.decode(), errors.decode()
        self.folder = folder

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self.out))

    def fates(self) -> dict[str, int]:
        return {name: count for name, count in self.summary["threads"].items() if count}

    def report(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "report").read_text().splitlines()]

    def sessions(self) -> dict[str, str]:
        lines = (self.folder / "sessions").read_text().splitlines()
        return {found["thread"]: found["session"] for found in map(json.loads, lines)}


def environment(url: str, folder: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": url,
        "DATA_DIR": str(folder / "data"),
        "AUTH_JWT_SECRET": SECRET,
        "PYTHONWARNINGS": "default",
    }


def written(objects: Sequence[Any]) -> bytes:
    lines = [o if isinstance(o, bytes) else json.dumps(o).encode() for o in objects]
    return b"\n".join(lines) + b"\n"


async def begun(
    url: str,
    folder: Path,
    objects: Sequence[Any],
    *options: str,
    user: str | None = "alice",
    file: str | None = None,
    files: bool = True,
    stdin: Any = asyncio.subprocess.PIPE,
    stderr: Any = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start the command over some lines, or over a named file; `files` are those it writes."""
    lines = folder / "export.jsonl"
    lines.write_bytes(written(objects))
    owner = ("--user", user) if user else ()
    told = ("--report", str(folder / "report"), "--sessions", str(folder / "sessions"))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "import-threads", file or str(lines)),
        *(*owner, *options, *(told if files else ())),
        cwd=ROOT,
        env=environment(url, folder),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def take(
    url: str,
    folder: Path,
    objects: Sequence[Any],
    *options: str,
    user: str | None = "alice",
    files: bool = True,
) -> Imported:
    """Run the command over some lines."""
    process = await begun(url, folder, objects, *options, user=user, files=files)
    out, errors = await asyncio.wait_for(process.communicate(), 120)
    done = Imported(process.returncode or 0, out, errors, folder)
    assert "Traceback" not in done.errors, done.errors
    assert WORDS not in done.out + done.errors
    return done
