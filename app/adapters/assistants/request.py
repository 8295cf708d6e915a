"""What is sent: tutors, turns and runs, in the dialect's words."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.domain.models import Role, ToolCall
from app.ports import Calls, Generation, Turn

ATTACHED: Final = "(See the attached file.)"
_READER: Final = {"type": "file_search"}
"""The tool by which this dialect reads a file in a message."""


def assistant(generation: Generation) -> dict[str, Any]:
    """Return the body that makes an assistant of a generation's configuration."""
    config = generation.config
    body: dict[str, Any] = {"model": config.model}
    for name in ("name", "description", "instructions"):
        if getattr(config, name):
            body[name] = getattr(config, name)
    resources = _theirs(config.tool_resources, generation.resources.upstream)
    if resources:
        body["tool_resources"] = resources
    if config.tools:
        body["tools"] = list(config.tools)
    # Left out at their defaults: reasoning models refuse them.
    for name in ("temperature", "top_p"):
        if getattr(config, name) != 1.0:
            body[name] = getattr(config, name)
    if config.response_format != "auto":
        body["response_format"] = config.response_format
    return body


def _theirs(
    resources: Mapping[str, Mapping[str, Sequence[str]] | None], known: Mapping[str, str]
) -> dict[str, Any]:
    """Return what tools work on, by the upstream's ids; what was deleted is left out."""
    found: dict[str, Any] = {}
    for tool, settings in resources.items():
        for name, ids in (settings or {}).items():
            theirs = [known[each] for each in ids if each in known]
            if theirs:
                found.setdefault(tool, {})[name] = theirs
    return found


def digest(body: dict[str, Any]) -> str:
    """Return what tells apart bodies that mean different tutors."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def message(turn: Turn | Calls) -> dict[str, Any]:
    """Return a turn as a message of a thread.

    A thread can't be given calls: what they came to is told in words.
    """
    if isinstance(turn, Turn):
        return _said(turn)
    texts = [f"{call.name}({call.arguments}) returned: {call.output}" for call in turn.calls]
    content = [{"type": "text", "text": text} for text in texts]
    return {"role": Role.ASSISTANT.value, "content": content}


def _said(turn: Turn) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    attachments: list[dict[str, Any]] = []
    for part in turn.parts:
        if isinstance(part, str):
            content += [{"type": "text", "text": part}] if part else []
        elif part.is_image:
            content.append({"type": "image_file", "image_file": {"file_id": part.upstream_id}})
        else:
            attachments.append({"file_id": part.upstream_id, "tools": [_READER]})
    said: dict[str, Any] = {"role": turn.role.value, "content": content}
    if attachments:
        # A message can't be of attachments alone.
        said["content"] = content or [{"type": "text", "text": ATTACHED}]
        said["attachments"] = attachments
    return said


def run(
    generation: Generation, assistant_id: str, messages: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the body that puts messages into a thread and asks for an answer, streamed."""
    body: dict[str, Any] = {
        "assistant_id": assistant_id,
        "additional_messages": list(messages),
        "stream": True,
    }
    if generation.model != generation.config.model:
        body["model"] = generation.model
    config = generation.config
    if config.max_output_tokens is not None:
        body["max_completion_tokens"] = config.max_output_tokens
    if config.tools and config.tool_choice is not None:
        body["tool_choice"] = config.tool_choice
    if config.tools and config.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = config.parallel_tool_calls
    return body


def outputs(calls: Sequence[ToolCall]) -> dict[str, Any]:
    """Return the body that gives a run what its functions returned, the rest streamed."""
    returned = [{"tool_call_id": call.id, "output": call.output} for call in calls]
    return {"tool_outputs": returned, "stream": True}
