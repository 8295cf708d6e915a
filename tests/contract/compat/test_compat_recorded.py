"""Whole streams of the face, event by event, are those that were recorded and read.

Recorded anew with `RECORD=1`: read the difference before it is committed.
"""

import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import NewDatabase
from tests.integration.compat.test_compat_streams import Student
from tests.stack import Block, Stack, blocks_of, running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

HERE = Path(__file__).parent
DELTA = {"event": "response.output_text.delta", "nth": 3}
STALL: dict[str, Any] = {"type": "stall", "at": DELTA, "seconds": 60}
ID = re.compile(r"\b(asst|sess|msg|run|step|call)_[0-9A-Za-z]{24}\b")
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "calculate"}},
    {
        "type": "function",
        "function": {
            "name": "plot",
            "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
        },
    },
]
CALLING = "Announce: calculate `1/3 + 1/6` and plot `x + 1`"
LATELY = 1_700_000_000
TOLD = {"prompt_tokens", "completion_tokens", "total_tokens"}


@pytest.fixture(scope="module")
async def stack(
    new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A tutor who writes slowly enough to be cut, and gives a run twelve seconds."""
    folder: Path = tmp_path_factory.mktemp("recorded")
    async with running(await new_database(), folder, pace=150, RUN_TIMEOUT_S="12") as found:
        yield found


def plain(value: Any, key: str = "") -> Any:
    """Leave what is the same each time: no ids, instants, counts or words."""
    if isinstance(value, dict):
        return {name: plain(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return "…" if key == "value" else ID.sub(r"\1_…", value)
    if isinstance(value, int) and (value > LATELY or key in TOLD):
        return 1
    return value


def written(blocks: list[Block]) -> str:
    """Write a stream down, the first of its deltas only: how many there are is the clock's."""
    assert (blocks[-1].event, blocks[-1].data) == ("done", "[DONE]")
    lines: list[str] = []
    seen: set[str] = set()
    for block in blocks[:-1]:
        if block.event != "thread.message.delta" or block.event not in seen:
            data = json.dumps(plain(json.loads(block.data)), ensure_ascii=False)
            lines.append(f"{block.event} {data}\n")
        seen.add(block.event)
    return "".join(lines) + "done [DONE]\n"


async def _whole(student: Student) -> str:
    return written(await student.streamed())


async def _failed(student: Student) -> str:
    await student.fault(type="fail", code="invalid_prompt", after_deltas=3)
    return written(await student.streamed())


async def _expired(student: Student) -> str:
    await student.fault(**STALL)
    return written(await student.streamed())


async def _cancelled(student: Student) -> str:
    await student.fault(**STALL)
    read, body = "", {"assistant_id": student.tutor, "stream": True}
    async with student.http.stream("POST", student.url("runs"), json=body) as response:
        is_asked = False
        async for text in response.aiter_text():
            read += text
            if not is_asked and "event: thread.message.delta" in read:
                is_asked = True
                run_id = json.loads(blocks_of(read)[0].data)["id"]
                async with httpx2.AsyncClient(headers=student.http.headers) as http:
                    answer = await http.post(student.url(f"runs/{run_id}/cancel"))
                assert answer.status_code == 200
    return written(blocks_of(read))


async def _requires_action(student: Student) -> str:
    """Two calls: the server's own, and the client's."""
    return written(await student.streamed(tools=TOOLS))


async def _submitted(student: Student) -> str:
    """The second stream: from the outputs to the end."""
    blocks = await student.streamed(tools=TOOLS)
    waiting = json.loads(blocks[-2].data)
    (call,) = waiting["required_action"]["submit_tool_outputs"]["tool_calls"]
    given = [{"tool_call_id": call["id"], "output": "A line."}]
    url = student.url(f"runs/{waiting['id']}/submit_tool_outputs")
    text = await student.read("POST", url, json={"tool_outputs": given, "stream": True})
    return written(blocks_of(text))


async def _tool_cancelled(student: Student) -> str:
    """A run that waits for its client, which cancels it: what follows."""
    blocks = await student.streamed(tools=TOOLS)
    run_id = json.loads(blocks[-2].data)["id"]
    assert (await student.http.post(student.url(f"runs/{run_id}/cancel"))).status_code == 200
    headers = {"Last-Event-ID": str(blocks[-2].id)}
    text = await student.read("GET", student.url(f"runs/{run_id}/events"), headers=headers)
    return written(blocks_of(text))


SCENARIOS: dict[str, Callable[[Student], Awaitable[str]]] = {
    "completed": _whole,
    "failed": _failed,
    "expired": _expired,
    "cancelled": _cancelled,
    "requires_action": _requires_action,
    "submitted": _submitted,
    "tool_cancelled": _tool_cancelled,
}
QUESTIONS = dict.fromkeys(("requires_action", "submitted", "tool_cancelled"), CALLING)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_stream_is_as_recorded(stack: Stack, name: str) -> None:
    student = Student(stack)
    await (student.arrive(QUESTIONS[name]) if name in QUESTIONS else student.arrive())
    found = await SCENARIOS[name](student)
    await student.close()
    file = HERE / f"{name}.txt"
    if os.environ.get("RECORD"):
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")
