"""Function calls: asked for by name, answered, and what happens when they are not."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.contract.sandbox.conftest import MODEL


def function(name: str) -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "description": f"The {name} tool.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["expression", "count"],
            "additionalProperties": False,
        },
    }


TOOLS: Any = [function("draw_graph"), function("look_up")]


async def test_named_functions_are_called_in_parallel_and_their_outputs_quoted(
    client: AsyncOpenAI,
) -> None:
    conversation = await client.conversations.create()
    events = [
        event
        async for event in await client.responses.create(
            model=MODEL,
            input="Use draw_graph and look_up, 3 times each",
            tools=TOOLS,
            conversation=conversation.id,
            stream=True,
        )
    ]
    last = events[-1]
    assert last.type == "response.completed"
    calls = [item for item in last.response.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["draw_graph", "look_up"]
    assert len(last.response.output) == 2
    assert all(set(json.loads(call.arguments)) == {"expression", "count"} for call in calls)
    for index, call in enumerate(calls):
        deltas = [
            event.delta
            for event in events
            if event.type == "response.function_call_arguments.delta"
            and event.output_index == index
        ]
        assert len(deltas) > 1
        assert "".join(deltas) == call.arguments

    outputs: Any = [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": f"result-of-{call.name}",
        }
        for call in calls
    ]
    answer = await client.responses.create(
        model=MODEL, input=outputs, tools=TOOLS, conversation=conversation.id
    )
    assert "result-of-draw_graph" in answer.output_text
    assert "result-of-look_up" in answer.output_text
    items = [item async for item in client.conversations.items.list(conversation.id, order="asc")]
    assert [item.type for item in items] == [
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
    ]


async def test_a_function_that_is_not_named_is_not_called(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input="What is 2 + 3?", tools=TOOLS)
    assert [item.type for item in made.output] == ["message"]
    assert "What is 2 + 3?" in made.output_text


@pytest.mark.parametrize("remedy", ["delete", "answer"])
async def test_an_unanswered_call_bricks_its_conversation_until_it_is_gone_or_answered(
    client: AsyncOpenAI, remedy: str
) -> None:
    conversation = await client.conversations.create()
    made = await client.responses.create(
        model=MODEL, input="draw_graph please", tools=TOOLS, conversation=conversation.id
    )
    call = made.output[0]
    assert call.type == "function_call"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(
            model=MODEL, input="never mind: 1 + 1", conversation=conversation.id
        )
    assert f"No tool output found for function call {call.call_id}." in caught.value.message
    assert call.id is not None
    given: Any = [{"role": "user", "content": "never mind: 1 + 1"}]
    if remedy == "delete":
        await client.conversations.items.delete(call.id, conversation_id=conversation.id)
    else:
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "too late"}
        given = [output, *given]
    healed = await client.responses.create(model=MODEL, input=given, conversation=conversation.id)
    assert "1 + 1" in healed.output_text


@pytest.mark.parametrize(
    ("options", "called"),
    [
        ({"parallel_tool_calls": False}, ["look_up"]),
        ({"tool_choice": "none"}, []),
        ({"tool_choice": {"type": "function", "name": "draw_graph"}}, ["draw_graph"]),
        ({"tool_choice": "required"}, ["look_up", "draw_graph"]),
    ],
)
async def test_the_request_may_limit_or_demand_calls(
    client: AsyncOpenAI, options: Any, called: list[str]
) -> None:
    made = await client.responses.create(
        model=MODEL, input="Look up the rule, then draw_graph", tools=TOOLS, **options
    )
    assert [item.name for item in made.output if item.type == "function_call"] == called


async def test_a_demanded_call_is_made_unnamed(client: AsyncOpenAI) -> None:
    made = await client.responses.create(
        model=MODEL, input="hello", tools=TOOLS, tool_choice="required"
    )
    assert [item.type for item in made.output] == ["function_call"]


async def test_an_answer_to_no_call_is_refused(client: AsyncOpenAI) -> None:
    output: Any = [{"type": "function_call_output", "call_id": "call_none", "output": "x"}]
    with pytest.raises(openai.BadRequestError, match="No tool call found"):
        await client.responses.create(model=MODEL, input=output)


async def test_a_call_continues_by_previous_response(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model=MODEL, input="look_up gravity", tools=TOOLS)
    call = made.output[0]
    assert call.type == "function_call"
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "9.81"}]
    answer = await client.responses.create(model=MODEL, input=output, previous_response_id=made.id)
    assert "9.81" in answer.output_text
