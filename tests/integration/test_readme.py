"""What the README tells people to type does what it says."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT, SECRET, TERMINAL, Stack, blocks_of

README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
ROOTS = ("(-11 + √241)/6", "(-11 - √241)/6")
WITHIN_S = 90


def block(language: str, mark: str) -> str:
    """The code block of a language that holds a mark."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (chosen,) = [code for code in found if mark in code]
    return str(chosen)


async def output_of(*command: str, stack: Stack, **more: str) -> str:
    """Run a command as a reader of the README would, and return what it prints."""
    env = {k: os.environ[k] for k in ("PATH", "HOME", "LANG") if k in os.environ}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=env | {"AUTH_JWT_SECRET": SECRET, "DATA_DIR": str(stack.folder / "readme")} | more,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), WITHIN_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()
    assert errors.decode() == ""
    return out.decode()


async def test_the_conversation_in_the_shell_gets_its_answer(shared: Stack) -> None:
    code = block("sh", "TOKEN=")
    assert ADDRESS in code
    code = code.replace(ADDRESS, shared.api_urls[0]).replace(
        ".venv/bin/python", Path(sys.executable).as_posix()
    )
    blocks = blocks_of(await output_of("bash", "-eu", "-c", code, stack=shared))
    deltas = [json.loads(b.data)["text"] for b in blocks if b.event == "message.delta"]
    answer = "".join(deltas)
    assert all(root in answer for root in ROOTS), answer
    assert [b.event for b in blocks[-2:]] == ["run.completed", "done"]


async def test_the_program_in_python_prints_the_answer(shared: Stack) -> None:
    code = block("python", "def follow")
    assert ADDRESS in code
    token = await output_of(sys.executable, "-m", "app", "token", "--user", "bob", stack=shared)
    answer = await output_of(
        sys.executable,
        "-W",
        "error",
        "-c",
        code.replace(ADDRESS, shared.api_urls[1]),
        stack=shared,
        TOKEN=token.strip(),
    )
    assert all(root in answer for root in ROOTS), answer


def test_the_answer_that_is_shown_is_what_events_look_like() -> None:
    shown = README.partition("<!-- conversation: begin -->")[2].partition("<!--")[0]
    for name in ("message.delta", "run.completed"):
        assert re.search(rf"^id: \d+\nevent: {re.escape(name)}\ndata: {{", shown, re.MULTILINE)
    assert 'event: done\ndata: {"type":"done","session_id":"sess_' in shown


async def test_every_path_that_is_named_is_a_path_of_the_api(shared: Stack) -> None:
    document = await shared.client().call("GET", "/openapi.json", 200)
    paths = [re.sub(r"\{\w+\}", "{}", path) for path in document["paths"]]
    named = re.findall(r"(?:GET|POST) …(/[a-z_/{}]+)", README)
    assert named
    for path in named:
        wanted = re.sub(r"\{\w+\}", "{}", path)
        assert [found for found in paths if found.endswith(wanted)], path


async def test_events_that_the_page_listens_to_are_events(shared: Stack) -> None:
    client = shared.client()
    session = await client.open_session()
    run, _ = await client.ask(session, "Solve 2x = 6")
    blocks = blocks_of(await client.stream(f"/v1/sessions/{session}/runs/{run['id']}/events"))
    known = {found.event for found in blocks} | {"message.reset", "message.incomplete", "reset"}
    known |= {f"run.{status}" for status in TERMINAL}
    listened = re.findall(r'^on\("([a-z.]+)"', block("js", "EventSource"), re.MULTILINE)
    assert set(listened) <= known
    assert {"message.delta", "message.reset", "reset"} <= set(listened)


@pytest.mark.parametrize("name", ["/healthz", "/readyz", "/docs", "/openapi.json"])
async def test_the_addresses_for_people_are_there(shared: Stack, name: str) -> None:
    assert name.strip("/") in README
    assert (await shared.client().http.get(name)).status_code == 200
