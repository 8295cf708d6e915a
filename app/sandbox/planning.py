"""What a response will consist of: function calls, or words of the tutor."""

from collections.abc import Sequence
from typing import Any, Protocol

from app.sandbox.attachments import shows_unreadable, words_of
from app.sandbox.formats import Solution, write
from app.sandbox.functions import (
    announcement,
    choose_calls,
    quote_outputs,
    rounds_of,
    stages_of,
)
from app.sandbox.generation import Plan, Say
from app.sandbox.hosted import Calculator, find_passages, quote, run_code
from app.sandbox.items import Item
from app.sandbox.request import CreateRequest
from app.sandbox.state import State
from app.sandbox.tutor.phrases import phrases_of
from app.sandbox.tutor.question import language_of


class Answerer(Protocol):
    """Whoever finds the words; the sandbox only carries them."""

    async def reply(self, turns: Sequence[tuple[str, str]]) -> str:
        """Answer the last of the turns, which is the student's.

        Args:
            turns: Pairs of role (`user` or `assistant`) and text, oldest first.
        """
        ...


async def make_plan(
    tutor: Answerer,
    calculator: Calculator,
    items: Sequence[Item],
    wanted: CreateRequest,
    state: State,
) -> Plan:
    """Decide on the answer to the newest turn.

    Args:
        tutor: Asked unless functions are called, or were answered.
        calculator: Knows what the code that is run would print.
        items: The whole conversation, the request's own items last.
        wanted: The request, for its tools.
        state: Where attached files are.
    """
    turns = _turns(items, state)
    newest = turns[-1][1]
    stages = stages_of(newest)
    quoted = quote_outputs(items)
    answered = None if quoted is None else [Say(write(wanted.format, Solution("", quoted)))]
    stage, choice = 0, wanted.tool_choice
    if answered is not None:
        stage = rounds_of(items)
        if stage >= len(stages):
            return [*answered]
        choice = "auto"
    calls = choose_calls(stages[stage], wanted.tools, choice, parallel=wanted.parallel_tool_calls)
    if calls:
        told = announcement(stages[stage], calls)
        return [*calls] if told is None else [Say(told), *calls]
    if answered is not None:
        return [*answered]
    plan: Plan = []
    tools = [] if wanted.tool_choice == "none" else wanted.tools
    searches, passages = find_passages(state, newest, tools)
    plan += searches
    if any(tool["type"] == "code_interpreter" for tool in tools):
        plan += await run_code(calculator, turns)
    say = phrases_of(language_of(turns))
    reply = await tutor.reply(turns)
    asked = [item for item in items if item.get("role") == "user"]
    if asked and shows_unreadable(state, asked[-1]):
        reply = f"{say.unreadable}\n\n{reply}"
    notes: list[dict[str, Any]] = []
    if passages:
        rest = "" if reply == say.offline else reply
        reply, notes = quote(passages[0], say.found, rest)
    elif searches:
        reply = f"{say.not_found}\n\n{reply}"
    if wanted.format["type"] != "text":
        return [*plan, Say(write(wanted.format, Solution(newest, reply)))]
    return [*plan, Say(reply, notes)]


def _turns(items: Sequence[Item], state: State) -> list[tuple[str, str]]:
    turns = [
        (str(item["role"]), words_of(state, item))
        for item in items
        if item["type"] == "message" and item["role"] in {"user", "assistant"}
    ]
    # a request without a student's message still gets an answer
    while turns and turns[-1][0] != "user":
        turns.pop()
    return turns or [("user", "")]
