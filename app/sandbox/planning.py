"""What a response will consist of: function calls, or words of the tutor."""

from collections.abc import Sequence
from typing import Protocol

from app.sandbox.functions import (
    announcement,
    choose_calls,
    quote_outputs,
    rounds_of,
    stages_of,
)
from app.sandbox.generation import Plan, Say
from app.sandbox.items import Item, text_of
from app.sandbox.request import CreateRequest


class Answerer(Protocol):
    """Whoever finds the words; the sandbox only carries them."""

    async def reply(self, turns: Sequence[tuple[str, str]]) -> str:
        """Answer the last of the turns, which is the student's.

        Args:
            turns: Pairs of role (`user` or `assistant`) and text, oldest first.
        """
        ...


async def make_plan(tutor: Answerer, items: Sequence[Item], wanted: CreateRequest) -> Plan:
    """Decide on the answer to the newest turn.

    Args:
        tutor: Asked unless functions are called, or were answered.
        items: The whole conversation, the request's own items last.
        wanted: The request, for its tools.
    """
    turns = _turns(items)
    stages = stages_of(turns[-1][1])
    quoted = quote_outputs(items)
    stage, choice = 0, wanted.tool_choice
    if quoted is not None:
        stage = rounds_of(items)
        if stage >= len(stages):
            return [Say(quoted)]
        choice = "auto"
    calls = choose_calls(stages[stage], wanted.tools, choice, parallel=wanted.parallel_tool_calls)
    if not calls:
        return [Say(quoted or await tutor.reply(turns))]
    told = announcement(stages[stage], calls)
    return [*calls] if told is None else [Say(told), *calls]


def _turns(items: Sequence[Item]) -> list[tuple[str, str]]:
    turns = [
        (str(item["role"]), text_of(item))
        for item in items
        if item["type"] == "message" and item["role"] in {"user", "assistant"}
    ]
    # a request without a student's message still gets an answer
    while turns and turns[-1][0] != "user":
        turns.pop()
    return turns or [("user", "")]
