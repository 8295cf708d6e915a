"""What is sent: turns, tools and formats, in the dialect's words."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.domain.models import Role, ToolCall
from app.ports import Attached, Calls, Generation, Turn

INCLUDED: Final = {
    "code_interpreter": "code_interpreter_call.outputs",
    "file_search": "file_search_call.results",
}
"""What is told of a tool's use only when it is asked for."""


def item(turn: Turn) -> dict[str, Any]:
    """Return a turn as an item of a conversation."""
    kind = "input_text" if turn.role is Role.USER else "output_text"
    content = [_part(kind, part) for part in turn.parts if part]
    return {"type": "message", "role": turn.role.value, "content": content}


def _part(kind: str, part: str | Attached) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": kind, "text": part}
    return {
        "type": "input_image" if part.is_image else "input_file",
        "file_id": part.upstream_id,
    }


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
    request |= _tools(generation)
    # Left out at their defaults: reasoning models refuse them.
    for name in ("temperature", "top_p"):
        if getattr(config, name) != 1.0:
            request[name] = getattr(config, name)
    if config.max_output_tokens is not None:
        request["max_output_tokens"] = config.max_output_tokens
    if config.response_format != "auto":
        request["text"] = {"format": _format(config.response_format)}
    return request


def _tools(generation: Generation) -> dict[str, Any]:
    config = generation.config
    tools = [found for tool in config.tools if (found := _tool(tool, generation)) is not None]
    if not tools:
        return {}
    told: dict[str, Any] = {"tools": tools}
    include = [INCLUDED[tool["type"]] for tool in tools if tool["type"] in INCLUDED]
    if include:
        told["include"] = include
    if config.tool_choice is not None:
        told["tool_choice"] = _choice(config.tool_choice)
    if config.parallel_tool_calls is not None:
        told["parallel_tool_calls"] = config.parallel_tool_calls
    return told


def _tool(tool: dict[str, Any], generation: Generation) -> dict[str, Any] | None:
    """Assistants nest a tool's settings, and keep what it works on apart; Responses do neither.

    None: a search without anything to search, which Responses refuse and Assistants took.
    """
    match tool.get("type"):
        case "function" if "function" in tool:
            return {"type": "function", "strict": False, **tool["function"]}
        case "code_interpreter":
            container: dict[str, Any] = {"type": "auto"}
            file_ids = _theirs(generation, "code_interpreter", "file_ids")
            if file_ids:
                container["file_ids"] = file_ids
            return {"type": "code_interpreter", "container": container}
        case "file_search":
            store_ids = _theirs(generation, "file_search", "vector_store_ids")
            if not store_ids:
                return None
            return {"type": "file_search", "vector_store_ids": store_ids, **_search(tool)}
        case _:
            return tool


def _theirs(generation: Generation, tool: str, name: str) -> list[str]:
    """Return what a tool works on, by the upstream's ids; what was deleted is left out."""
    settings: Mapping[str, Any] | None = generation.config.tool_resources.get(tool)
    wanted: Sequence[str] = (settings or {}).get(name) or ()
    known = generation.resources.upstream
    return [known[each] for each in wanted if each in known]


def _search(tool: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = tool.get("file_search") or {}
    found: dict[str, Any] = {}
    if settings.get("max_num_results") is not None:
        found["max_num_results"] = settings["max_num_results"]
    options: dict[str, Any] | None = settings.get("ranking_options")
    if options is not None and options.get("score_threshold") is not None:
        # The rankers have other names here: which one it is, is left to the upstream.
        found["ranking_options"] = {"score_threshold": options["score_threshold"]}
    return found


def _choice(wanted: Any) -> Any:
    match wanted:
        case {"type": "function", "function": {"name": name}}:
            return {"type": "function", "name": name}
        case _:
            return wanted


def _format(wanted: dict[str, Any]) -> dict[str, Any]:
    if wanted.get("type") == "json_schema" and "json_schema" in wanted:
        # Left out, it means any object; Responses want to be told so.
        return {"type": "json_schema", "schema": {"type": "object"}, **wanted["json_schema"]}
    return wanted
