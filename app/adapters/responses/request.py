"""What is sent: turns, tools and formats, in the dialect's words."""

from typing import Any

from app.domain.models import Role
from app.ports import Attached, Generation, Turn


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


def create(generation: Generation, *, background: bool) -> dict[str, Any]:
    """Return the body that asks for an answer, streamed."""
    config = generation.config
    request: dict[str, Any] = {
        "model": generation.model,
        "input": [item(turn) for turn in generation.turns],
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
    if config.tools:
        request["tools"] = [_tool(tool) for tool in config.tools]
    # Left out at their defaults: reasoning models refuse them.
    for name in ("temperature", "top_p"):
        if getattr(config, name) != 1.0:
            request[name] = getattr(config, name)
    if config.max_output_tokens is not None:
        request["max_output_tokens"] = config.max_output_tokens
    if config.response_format != "auto":
        request["text"] = {"format": _format(config.response_format)}
    return request


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Assistants nest a function's name and schema; Responses have them flat."""
    if tool.get("type") == "function" and "function" in tool:
        return {"type": "function", "strict": False, **tool["function"]}
    return tool


def _format(wanted: dict[str, Any]) -> dict[str, Any]:
    if wanted.get("type") == "json_schema" and "json_schema" in wanted:
        return {"type": "json_schema", **wanted["json_schema"]}
    return wanted
