"""Rounds: the tutor is asked, may want functions called, and is asked again with their outputs.

The server's own tools are called here. As soon as one call is the client's, the run waits for
it; what the others returned is kept with the step, and all outputs go upstream together.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from app.domain.errors import UpstreamError
from app.domain.models import RunStatus, ToolCall
from app.ports import Ended, ToolContext, Tools
from app.services.attempts import Attempts, total

MAX_ROUNDS: Final = 25
"""A tutor that goes on calling is stopped: each round is paid for."""


async def converse(work: Attempts, tools: Tools) -> Ended:
    """Return how the run ended, or with which calls it waits for its client.

    Raises:
        UpstreamError: The upstream can't answer, or calls without end.
        FencedError: The run is not this worker's any more.
    """
    ended = await work.generate()
    while ended.status is RunStatus.REQUIRES_ACTION:
        calls = await _answered(work, tools, ended.tool_calls)
        await work.close_round(ended, calls)
        left = [call for call in calls if call.output is None]
        if left:
            return replace(ended, tool_calls=left)
        if work.counter.rounds > MAX_ROUNDS:
            raise UpstreamError("The tutor called functions without end.", code="too_many_rounds")
        work.spent = total(work.spent, ended.usage)
        ended = await work.go_on()
    return ended


async def _answered(work: Attempts, tools: Tools, calls: Sequence[ToolCall]) -> Sequence[ToolCall]:
    """Return the calls, those of the server's own tools with their outputs."""

    async def answer(call: ToolCall) -> ToolCall:
        if call.name not in work.own_tools:
            return call
        run = work.claim.run
        context = ToolContext(work.claim.user_id, run.session_id, run.id, call.id)
        return replace(call, output=await tools.call(call, context))

    return await asyncio.gather(*(answer(call) for call in calls))
