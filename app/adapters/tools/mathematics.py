"""Exact arithmetic and equations for tutors: a model guesses, `app.algebra` knows.

It is bounded by a process that is killed when late; one thread waits for it, so that slow
questions fill no other pool.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final

from pydantic import Field

from app.adapters.tools.toolbox import Function, ToolError
from app.algebra import (
    AlgebraError,
    EquationCheck,
    Evaluation,
    Task,
    Workshop,
)
from app.algebra.results import Result
from app.domain.models import JsonObject
from app.ports import ToolContext

DEADLINE_S: Final = 3.0
"""For one calculation, once its turn has come."""

Expression = Annotated[
    str, Field(max_length=2000, description="Such as `2(3 + 4)^2 / 7` or `(x+1)(x-1)`.")
]
Equation = Annotated[str, Field(max_length=2000, description="Such as `2x + 1 = 7`.")]
Values = Annotated[
    dict[str, str],
    Field(max_length=20, description='What the letters stand for, such as `{"x": "-1/2"}`.'),
]


class Mathematics:
    """Tools that calculate; nothing starts before the first of them is called."""

    def __init__(self) -> None:
        self._workshop = Workshop(DEADLINE_S)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mathematics")

    @property
    def tools(self) -> Sequence[Function]:
        """The functions, for a toolbox."""
        return [self.calculate, self.check_equation]

    async def aclose(self) -> None:
        """Stop the process and the thread."""
        await asyncio.to_thread(self._workshop.close)
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def calculate(self, _context: ToolContext, expression: Expression) -> JsonObject:
        """Compute an expression exactly; one with letters is multiplied out and simplified."""
        found = await self._perform(Task("evaluate", (expression,)))
        if not isinstance(found, Evaluation):
            raise TypeError
        return {
            "value": found.value.plain,
            "decimal": found.value.approx,
            "latex": found.value.latex,
        }

    async def check_equation(
        self, _context: ToolContext, equation: Equation, values: Values | None = None
    ) -> JsonObject:
        """Tell whether an equation holds, for the given values or else for all.

        Check a student's solution with it, or each step of a transformation.
        """
        options = {"values": values} if values else {}
        found = await self._perform(Task("check_equation", (equation,), options))
        if not isinstance(found, EquationCheck):
            raise TypeError
        return {"holds": found.holds, "left": found.left.plain, "right": found.right.plain}

    async def _perform(self, task: Task) -> Result:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._workshop.run, task)
        except AlgebraError as error:
            # Its words are about mathematics, and name what was not understood.
            raise ToolError(f"{error.code}: {error}") from None
