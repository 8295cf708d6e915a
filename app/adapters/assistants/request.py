"""What is sent: tutors, turns and runs, in the dialect's words."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from app.domain.models import AssistantConfig
from app.ports import Generation, Turn


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


def message(turn: Turn) -> dict[str, Any]:
    """Return a turn as a message of a thread."""
    content = [{"type": "text", "text": text} for text in turn.texts if text]
    return {"role": turn.role.value, "content": content}


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
    if generation.config.max_output_tokens is not None:
        body["max_completion_tokens"] = generation.config.max_output_tokens
    return body
