"""The server's own tools: their schemas, their bounds, and what the model reads of a failure."""

import asyncio
import json
from typing import Annotated, Any

import pytest
from pydantic import Field

from app.adapters.tools.mathematics import Mathematics
from app.adapters.tools.toolbox import Toolbox, ToolError
from app.domain.models import JsonObject, ToolCall
from app.ports import ToolContext

CONTEXT = ToolContext("user_1", "sess_1", "run_1", "call_1")


async def look_up(
    context: ToolContext, word: Annotated[str, Field(description="A word.")], limit: int = 3
) -> JsonObject:
    """Look a word up."""
    if word == "never":
        await asyncio.sleep(3600)
    if word == "wrong":
        raise ToolError("There is no such word.")
    if word == "broken":
        raise RuntimeError("a secret")
    return {"word": word * limit, "user": context.user_id}


def box(*, timeout_s: float = 30) -> Toolbox:
    return Toolbox([look_up], timeout_s=timeout_s)


def tool(name: str, **more: Any) -> JsonObject:
    return {"type": "function", "function": {"name": name, **more}}


async def called(tools: Toolbox, name: str = "look_up", **arguments: Any) -> Any:
    return json.loads(await tools.call(ToolCall("call_1", name, json.dumps(arguments)), CONTEXT))


def test_a_tool_is_described_by_its_signature() -> None:
    (told,) = box().complete([tool("look_up", description=None, parameters=None)])
    assert told == tool(
        "look_up",
        description="Look a word up.",
        parameters={
            "type": "object",
            "properties": {
                "word": {"type": "string", "description": "A word."},
                "limit": {"type": "integer", "default": 3},
            },
            "required": ["word"],
            "additionalProperties": False,
        },
    )


def test_what_an_assistant_says_of_a_tool_stands() -> None:
    schema = {"type": "object", "properties": {}}
    own, other = tool("look_up", parameters=schema), {"type": "code_interpreter"}
    described = tool("look_up", description="Mine.")
    kept = [own, other, tool("plot")]
    assert box().complete(kept) == kept
    assert box().names(kept) == frozenset()
    assert box().names([described]) == {"look_up"}
    assert box().complete([described])[0]["function"]["description"] == "Mine."


async def test_a_tool_is_given_who_asks_and_what_the_model_wrote() -> None:
    assert await called(box(), word="ab", limit=2) == {"word": "abab", "user": "user_1"}
    assert await called(box(), word="ab") == {"word": "ababab", "user": "user_1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"word": "wrong"}, "There is no such word."),
        ({"word": "broken"}, "The tool failed."),
        ({"word": 5}, "The arguments are not valid: word: Input should be a valid string."),
        ({}, "The arguments are not valid: word: Field required."),
        ({"word": "a", "x": 1}, "The arguments are not valid: x: Extra inputs are not permitted."),
        ({"word": "a", "limit": 20_000}, "The result is too long; ask for less."),
        ({"word": "a" * 20_000}, "The arguments are too long."),
    ],
)
async def test_what_goes_wrong_the_model_reads(arguments: Any, said: str) -> None:
    assert await called(box(), **arguments) == {"error": said}


async def test_arguments_that_are_no_json_are_refused() -> None:
    text = await box().call(ToolCall("call_1", "look_up", '{"word": "canary'), CONTEXT)
    assert "not valid" in text
    assert "canary" not in text


async def test_a_tool_that_takes_too_long_is_given_up() -> None:
    assert await called(box(timeout_s=0.05), word="never") == {"error": "The tool took too long."}


async def test_mathematics() -> None:
    mathematics = Mathematics()
    tools = Toolbox(mathematics.tools, timeout_s=100)
    try:
        assert await called(tools, "calculate", expression="1/3 + 1/6") == {
            "value": "1/2",
            "decimal": 0.5,
            "latex": "\\frac{1}{2}",
        }
        check = {"equation": "2x + 1 = 7", "values": {"x": "3"}}
        assert await called(tools, "check_equation", **check) == {
            "holds": True,
            "left": "7",
            "right": "7",
        }
        assert (await called(tools, "check_equation", equation="(x+1)^2 = x^2+2x+1"))["holds"]
        assert not (await called(tools, "check_equation", equation="x = 2x"))["holds"]
        refused = await called(tools, "calculate", expression="__import__('os')")
        assert set(refused) == {"error"}
    finally:
        await mathematics.aclose()


def test_the_schemas_of_the_tools_that_ship_are_of_objects() -> None:
    tools = Toolbox(Mathematics().tools, timeout_s=1)
    told = tools.complete([tool("calculate"), tool("check_equation")])
    assert [each["function"]["parameters"]["type"] for each in told] == ["object", "object"]
    assert all(each["function"]["description"] for each in told)
