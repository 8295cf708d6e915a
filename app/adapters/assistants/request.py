"""What is sent: tutors, turns and runs, in the dialect's words."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from app.domain.models import AssistantConfig, Role, ToolCall
from app.ports import Calls, Generation, Turn


def assistant(config: AssistantConfig) -> dict[str, Any]:
    """Return the body that makes an assistant of a configuration."""
    body: dict[str, Any] = {"model": config.model}
    for name in ("name", "description", "instructions", "tool_resources"):
        if getattr(config, name):
            body[name] = getattr(config, name)
    if config.tools:
        body["tools"] = list(config.tools)
    # Left out at their defaults: reasoning models refuse them.
    for name in ("temperature", "top_p"):
        if getattr(config, name) != 1.0:
            body[name] = getattr(config, name)
    if config.response_format != "auto":
        body["response_format"] = config.response_format
    return body


def digest(body: dict[str, Any]) -> str:
    """Return what tells apart bodies that mean different tutors."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def message(turn: Turn | Calls) -> dict[str, Any]:
    """Return a turn as a message of a thread.

    A thread can't be given calls: what they came to is told in words.
    """
    role, texts = Role.ASSISTANT, []
    if isinstance(turn, Turn):
        role, texts = turn.role, [text for text in turn.texts if text]
    else:
        texts = [f"{call.name}({call.arguments}) returned: {call.output}" for call in turn.calls]
    return {"role": role.value, "content": [{"type": "text", "text": text} for text in texts]}


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
