"""What is sent: turns, tools and formats, in the dialect's words."""

from collections.abc import Sequence
from typing import Any

from app.domain.models import AssistantConfig, Role, ToolCall
from app.ports import Calls, Generation, Turn


def item(turn: Turn) -> dict[str, Any]:
    """Return a turn as an item of a conversation."""
    kind = "input_text" if turn.role is Role.USER else "output_text"
    content = [{"type": kind, "text": text} for text in turn.texts if text]
    return {"type": "message", "role": turn.role.value, "content": content}


def items(turns: Sequence[Turn | Calls]) -> list[dict[str, Any]]:
    """Return what was said and called as items of a conversation."""
    found: list[dict[str, Any]] = []
    for turn in turns:
        if isinstance(turn, Turn):
            found.append(item(turn))
            continue
        found += [
            {
                "type": "function_call",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
            }
            for call in turn.calls
        ]
        found += outputs(turn.calls)
    return found


def outputs(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Return what functions returned as items of a conversation."""
    return [
        {"type": "function_call_output", "call_id": call.id, "output": call.output}
        for call in calls
        if call.output is not None
    ]


def create(generation: Generation, *, background: bool) -> dict[str, Any]:
    """Return the body that asks for an answer, streamed."""
    config = generation.config
    request: dict[str, Any] = {
        "model": generation.model,
        "input": [*items(generation.turns), *outputs(generation.outputs)],
        "stream": True,
        # What is not stored can't be followed again.
        "store": background or generation.thread_id is not None,
        "stream_options": {"include_obfuscation": False},
        "safety_identifier": generation.safety_id,
    }
    if background:
        request["background"] = True
    if generation.thread_id is not None:
        request["conversation"] = generation.thread_id
    if config.instructions:
        request["instructions"] = config.instructions
    request |= _tools(config)
    # Left out at their defaults: reasoning models refuse them.
    for name in ("temperature", "top_p"):
        if getattr(config, name) != 1.0:
            request[name] = getattr(config, name)
    if config.max_output_tokens is not None:
        request["max_output_tokens"] = config.max_output_tokens
    if config.response_format != "auto":
        request["text"] = {"format": _format(config.response_format)}
    return request


def _tools(config: AssistantConfig) -> dict[str, Any]:
    if not config.tools:
        return {}
    told: dict[str, Any] = {"tools": [_tool(tool) for tool in config.tools]}
    if config.tool_choice is not None:
        told["tool_choice"] = _choice(config.tool_choice)
    if config.parallel_tool_calls is not None:
        told["parallel_tool_calls"] = config.parallel_tool_calls
    return told


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Assistants nest a function's name and schema; Responses have them flat."""
    if tool.get("type") == "function" and "function" in tool:
        return {"type": "function", "strict": False, **tool["function"]}
    return tool


def _choice(wanted: Any) -> Any:
    match wanted:
        case {"type": "function", "function": {"name": name}}:
            return {"type": "function", "name": name}
        case _:
            return wanted


def _format(wanted: dict[str, Any]) -> dict[str, Any]:
    if wanted.get("type") == "json_schema" and "json_schema" in wanted:
        return {"type": "json_schema", **wanted["json_schema"]}
    return wanted
