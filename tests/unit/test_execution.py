"""A run can be stopped before, during and after its dealings with the upstream."""

import asyncio
from datetime import timedelta

import pytest

from app.domain.models import Run, RunStatus
from app.ports import Claim, Thread
from app.services.execution import Execution, Stop


@pytest.fixture
def execution() -> Execution:
    run = Run(
        id="run_1",
        session_id="sess_1",
        assistant_id="asst_1",
        assistant_version=1,
        model="m",
        status=RunStatus.IN_PROGRESS,
        attempts=1,
        input_message_id=None,
        output_message_id=None,
        metadata={},
    )
    return Execution(
        Claim(
            run=run,
            fence=1,
            last_seq=3,
            thread=Thread(None, 0, None),
            response_id=None,
            is_takeover=False,
            handovers=0,
            remaining=timedelta(minutes=1),
            safety_id="",
        )
    )


async def test_a_stop_interrupts_what_waits_for_the_upstream(execution: Execution) -> None:
    asyncio.get_running_loop().call_later(0.01, execution.stop, Stop.CANCELLED)
    with pytest.raises(TimeoutError):
        async with execution.scope():
            await asyncio.Event().wait()
    assert execution.reason is Stop.CANCELLED


async def test_a_stop_that_comes_first_lets_nothing_begin(execution: Execution) -> None:
    execution.stop(Stop.ABANDONED)
    with pytest.raises(TimeoutError):
        async with execution.scope():
            await asyncio.Event().wait()


async def test_a_stop_while_the_end_is_being_written_is_too_late(execution: Execution) -> None:
    async with execution.scope():
        pass
    execution.stop(Stop.CANCELLED)  # Raised in the heartbeat, it would end the whole worker.


async def test_the_first_reason_to_stop_holds(execution: Execution) -> None:
    execution.stop(Stop.CANCELLED)
    execution.stop(Stop.ABANDONED)
    assert execution.reason is Stop.CANCELLED
