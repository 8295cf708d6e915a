"""A tool of the server's works for the student who asked, and its slowness holds nobody up."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from app.adapters.responses.upstream import ResponsesUpstream
from app.adapters.tools.toolbox import Toolbox
from app.adapters.wire.client import UpstreamConfig
from app.domain.models import AssistantConfig, JsonObject, Run, RunStatus, User
from app.domain.steps import RunStep
from app.ports import Claim, ToolContext
from app.sandbox.config import SandboxConfig
from app.services.execution import Execution, Executor, Stop
from tests.contract.sandbox.conftest import KEY, Sandbox, emptied, serving
from tests.integration.test_log import Desk, desk_on
from tests.integration.test_publisher import writing
from tests.stack import until

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("who_asks", "for_ever")]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(SandboxConfig(tokens_per_second=0)) as found:
        yield found


@pytest.fixture
async def sandbox(port: int) -> AsyncIterator[Sandbox]:
    async with emptied(port) as fresh:
        yield fresh


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with desk_on(database_url) as found:
        yield found


async def who_asks(context: ToolContext) -> JsonObject:
    """Tell who asks."""
    return {"user": context.user_id, "session": context.session_id, "call": context.call_id}


async def for_ever(_context: ToolContext) -> JsonObject:
    """Never return."""
    await asyncio.Event().wait()
    return {}


async def claimed(desk: Desk, question: str) -> tuple[User, Claim]:
    """Ask a tutor that has tools, and claim the run."""
    user = await desk.user()
    config = AssistantConfig("Tutor", None, None, "m", tools=TOOLS)
    async with desk.database.transaction() as uow:
        assistant = await uow.assistants.add(user, config, {}, is_own=True)
        session = await uow.sessions.add(user.id, assistant.id, None, {})
    await desk.post(user, session.id, question)
    (claim,) = await desk.queue("worker_a").claim(1)
    return user, claim


@asynccontextmanager
async def executor_at(desk: Desk, sandbox: Sandbox) -> AsyncIterator[Executor]:
    upstream = ResponsesUpstream(UpstreamConfig(KEY, f"{sandbox.url}/v1", 30, 30, 10))
    tools = Toolbox([who_asks, for_ever], timeout_s=60)
    async with writing(desk.database) as publisher:
        yield Executor(desk.database, upstream, publisher, tools, "worker_a", max_attempts=3)
    await upstream.aclose()


async def steps_of(desk: Desk, user: User, claim: Claim) -> tuple[Run, list[RunStep]]:
    run = await desk.runs.get(user, claim.run.session_id, claim.run.id)
    async with desk.database.snapshot() as uow:
        return run, list(await uow.runs.steps(run))


async def test_a_tool_is_told_for_whom_it_works(desk: Desk, sandbox: Sandbox) -> None:
    user, claim = await claimed(desk, "Please call who_asks")
    async with executor_at(desk, sandbox) as executor:
        await executor.execute(Execution(claim))
    run, (step,) = await steps_of(desk, user, claim)
    assert run.status is RunStatus.COMPLETED
    (call,) = step.calls
    assert json.loads(call.output or "") == {
        "user": user.id,
        "session": claim.run.session_id,
        "call": call.id,
    }


@pytest.mark.parametrize("stop", [Stop.CANCELLED, Stop.ABANDONED])
async def test_a_run_is_stopped_while_a_tool_works(
    desk: Desk, sandbox: Sandbox, stop: Stop
) -> None:
    user, claim = await claimed(desk, "Please call for_ever")
    execution = Execution(claim)

    async def is_told() -> bool:
        return bool((await steps_of(desk, user, claim))[1])

    async with executor_at(desk, sandbox) as executor:
        executing = asyncio.create_task(executor.execute(execution))
        await until(is_told)
        execution.stop(stop)
        async with asyncio.timeout(30):
            await executing
    run, (step,) = await steps_of(desk, user, claim)
    if stop is Stop.CANCELLED:
        assert (run.status, step.status) == (RunStatus.CANCELLED, "cancelled")
    else:
        assert (run.status, step.status) == (RunStatus.IN_PROGRESS, "in_progress")
