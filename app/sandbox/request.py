"""The body of POST /v1/responses, validated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.sandbox.errors import ApiError, invalid, missing
from app.sandbox.formats import read_format
from app.sandbox.hosted import read_include
from app.sandbox.items import Item, read_input
from app.sandbox.jsonio import is_array, is_object, read_metadata

_KNOWN: Final = frozenset({
    "background", "background_options", "context_management", "conversation", "include", "input",
    "instructions", "max_output_tokens", "max_tool_calls", "metadata", "model", "moderation",
    "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier",
    "service_tier", "store", "stream", "stream_options", "temperature", "text", "tool_choice",
    "tools", "top_logprobs", "top_p", "truncation", "user",
})  # fmt: skip
MAX_INSTRUCTIONS: Final = 1_000_000
MAX_TOOLS: Final = 128


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a client asked for; `echo` is repeated in the response as it was given."""

    model: str
    input_items: list[Item]
    instructions: str | None
    conversation_id: str | None
    previous_response_id: str | None
    stream: bool
    background: bool
    store: bool
    obfuscate: bool
    max_output_tokens: int | None
    parallel_tool_calls: bool
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    include: frozenset[str]
    format: dict[str, Any]
    metadata: dict[str, str]
    echo: dict[str, Any]


def read_create(body: dict[str, Any]) -> CreateRequest:
    """Validate a request for a response.

    Raises:
        ApiError: 400, saying which parameter is wrong.
    """
    for name in body:
        if name not in _KNOWN:
            raise ApiError(
                400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter"
            )
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise missing("model")
    conversation_id = _conversation_id(body.get("conversation"))
    previous = _optional_string(body, "previous_response_id")
    if conversation_id is not None and previous is not None:
        raise ApiError(
            400,
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. "
            "Ensure you are only providing one of them.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if body.get("input") is None and conversation_id is None and previous is None:
        raise missing("input")
    instructions = _optional_string(body, "instructions")
    if instructions is not None and len(instructions) > MAX_INSTRUCTIONS:
        raise invalid("instructions", f"at most {MAX_INSTRUCTIONS} characters")
    return CreateRequest(
        model=model,
        input_items=read_input(body.get("input")),
        instructions=instructions,
        conversation_id=conversation_id,
        previous_response_id=previous,
        stream=_flag(body, "stream", default=False),
        background=_flag(body, "background", default=False),
        store=_flag(body, "store", default=True),
        obfuscate=_obfuscate(body),
        max_output_tokens=_positive(body, "max_output_tokens"),
        parallel_tool_calls=_flag(body, "parallel_tool_calls", default=True),
        tool_choice=_tool_choice(body.get("tool_choice")),
        tools=_tools(body.get("tools")),
        include=read_include(body.get("include")),
        format=read_format(body.get("text")),
        metadata=read_metadata(body),
        echo=_echo(body),
    )


def _echo(body: Mapping[str, Any]) -> dict[str, Any]:
    text = body.get("text")
    return {
        "temperature": _number(body, "temperature", 2.0),
        "top_p": _number(body, "top_p", 1.0),
        "max_tool_calls": _positive(body, "max_tool_calls"),
        "truncation": body.get("truncation") or "disabled",
        "safety_identifier": _optional_string(body, "safety_identifier"),
        "prompt_cache_key": _optional_string(body, "prompt_cache_key"),
        "user": _optional_string(body, "user"),
        "service_tier": "default",
        "top_logprobs": 0,
        "reasoning": {"effort": None, "summary": None},
        "text": {
            "verbosity": "medium",
            **(text if is_object(text) else {}),
            "format": read_format(text),
        },
    }


def _conversation_id(value: object) -> str | None:
    if is_object(value):
        value = value.get("id")
    if value is None or (isinstance(value, str) and value):
        return value
    raise invalid("conversation", "an id, or an object with an id")


def _optional_string(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value
    raise invalid(name, "a string")


def _flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    raise invalid(name, "a boolean")


def _positive(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise invalid(name, "a positive integer")
    return value


def _number(body: Mapping[str, Any], name: str, most: float) -> float:
    value = body.get(name)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise invalid(name, f"a number from 0 to {most}")
    return float(value)


def _obfuscate(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    if options is None:
        return True
    if not is_object(options):
        raise invalid("stream_options", "an object")
    return _flag(options, "include_obfuscation", default=True)


def _tool_choice(value: object) -> str | dict[str, Any]:
    if value is None:
        return "auto"
    if value in ("none", "auto", "required") or is_object(value):
        return value if is_object(value) else str(value)
    raise invalid("tool_choice", "none, auto, required or an object")


def _tools(value: object) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not is_array(value) or len(value) > MAX_TOOLS:
        raise invalid("tools", f"an array of at most {MAX_TOOLS} tools")
    tools: list[dict[str, Any]] = []
    for index, tool in enumerate(value):
        if not is_object(tool) or not isinstance(tool.get("type"), str):
            raise invalid(f"tools[{index}]", "an object with a type")
        if tool["type"] == "function":
            if not isinstance(tool.get("name"), str):
                raise missing(f"tools[{index}].name")
            tools.append({"description": None, "parameters": None, "strict": True, **tool})
        else:
            tools.append(tool)
    return tools
