"""A tutor without a model: finds the mathematics in a conversation and really solves it.

It keeps no conversation: the turns are all it knows, so the same turns get the same words.
What it can't do it says. Never blocks the event loop: reading happens in its one thread,
solving in the process of a `Workshop`, which has a hard deadline.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from app.algebra import AlgebraError, Evaluation, Task, Workshop
from app.sandbox.tutor.answer import explain
from app.sandbox.tutor.phrases import Phrases, phrases_of
from app.sandbox.tutor.question import understand

_EXAMPLES: Final = (
    Task("solve_equation", ("x^2 - x - 1 = 0",)),
    Task("integrate", ("x^2",)),
)
"""Solved once before anyone asks: SymPy imports more on its first use."""


class Tutor:
    """Answers the last turn of a conversation."""

    def __init__(self, solve_deadline_s: float = 3.0) -> None:
        """Prepare; nothing starts before `warm_up` or the first question.

        Args:
            solve_deadline_s: Wall time for one calculation.
        """
        self._workshop = Workshop(solve_deadline_s)
        # one thread is enough, for the workshop solves one task at a time; and it is not
        # the loop's own pool, which slow questions would fill
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tutor")

    async def reply(self, turns: Sequence[tuple[str, str]]) -> str:
        """Answer.

        Args:
            turns: Pairs of role (`user` or `assistant`) and text, oldest first; the last
                is the student's.

        Returns:
            Markdown with LaTeX, in the language of the question; never empty.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._reply, tuple(turns))

    async def calculate(self, turns: Sequence[tuple[str, str]]) -> Sequence[Evaluation]:
        """Return the numbers that the last turn asks for; none if it asks for anything else."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._calculate, tuple(turns))

    def warm_up(self) -> None:
        """Start the process that solves, and let it solve something; blocks for a second.

        Raises:
            DeadlineError: The process did not come up.
        """
        self._workshop.start()
        for task in _EXAMPLES:
            self._workshop.run(task)

    async def aclose(self) -> None:
        """Stop the process and the thread; a question on the way is not answered in time."""
        await asyncio.to_thread(self._workshop.close)
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _calculate(self, turns: tuple[tuple[str, str], ...]) -> list[Evaluation]:
        found: list[Evaluation] = []
        for task in understand(turns).tasks:
            if task.name != "evaluate":
                continue
            try:
                result = self._workshop.run(task)
            except AlgebraError:
                continue
            if isinstance(result, Evaluation) and result.is_number:
                found.append(result)
        return found

    def _reply(self, turns: tuple[tuple[str, str], ...]) -> str:
        question = understand(turns)
        say = phrases_of(question.language)
        if not question.tasks:
            return say.offline
        answers = [self._solve(task, say, in_detail=question.in_detail) for task in question.tasks]
        if question.assumed_zero:
            answers.insert(0, say.assumed_zero)
        return "\n\n".join(answers)

    def _solve(self, task: Task, say: Phrases, *, in_detail: bool) -> str:
        try:
            return explain(self._workshop.run(task), say, in_detail=in_detail)
        except AlgebraError as error:
            return say.refused.get(error.code, say.offline)
