"""Items: what a conversation holds, and how input becomes items."""

from collections.abc import Sequence
from typing import Any, Final

from app.sandbox.errors import ApiError, invalid, missing
from app.sandbox.ids import new_id
from app.sandbox.jsonio import is_array, is_object

Item = dict[str, Any]

MAX_ITEMS: Final = 20
"""Items that one call may add to a conversation."""
MAX_OUTPUT: Final = 10_485_760
"""Characters of one function's output."""
MAX_CALL_ID: Final = 64

_PREFIXES: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
_INPUT_ROLES: Final = {"user", "system", "developer"}
_PARTS: Final = {
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "input_image": None,
    "input_file": None,
}


def read_input(value: object) -> list[Item]:
    """Turn the `input` of a response into items; a string is a user's message.

    Raises:
        ApiError: Neither a string nor a list of items.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [read_item({"role": "user", "content": value}, "input")]
    if not is_array(value):
        raise invalid("input", "a string or an array of items")
    return [read_item(entry, f"input[{index}]") for index, entry in enumerate(value)]


def read_items(body: dict[str, Any], *, required: bool) -> list[Item]:
    """Read the `items` of a conversation call, at most 20.

    Raises:
        ApiError: They are missing, too many, or malformed.
    """
    value = body.get("items")
    if value is None:
        if required:
            raise missing("items")
        return []
    if not is_array(value) or len(value) > MAX_ITEMS:
        raise ApiError(
            400,
            f"Invalid 'items': expected an array of at most {MAX_ITEMS} items.",
            param="items",
            code="array_above_max_length",
        )
    return [read_item(entry, f"items[{index}]") for index, entry in enumerate(value)]


def read_item(value: object, param: str) -> Item:
    """Complete one item with what the upstream adds: id, type, status.

    Raises:
        ApiError: It is malformed; `param` says where.
    """
    if not is_object(value):
        raise invalid(param, "an object")
    kind = value.get("type", "message" if "role" in value else None)
    if kind == "item_reference":
        raise ApiError(404, f"Item with id '{value.get('id')}' not found.", param=param)
    if not isinstance(kind, str):
        raise missing(f"{param}.type")
    item_id = value.get("id")
    item: Item = {
        "id": item_id if isinstance(item_id, str) else new_id(_PREFIXES.get(kind, "item")),
        "type": kind,
        "status": "completed",
    }
    match kind:
        case "message":
            return item | _read_message(value, param)
        case "function_call_output":
            return item | _read_output(value, param)
        case "function_call":
            for name in ("call_id", "name", "arguments"):
                if not isinstance(value.get(name), str):
                    raise missing(f"{param}.{name}")
            return item | {name: value[name] for name in ("call_id", "name", "arguments")}
        case _:
            return {**value, **item}


def _read_message(value: dict[str, Any], param: str) -> Item:
    role = value.get("role")
    if role not in _INPUT_ROLES | {"assistant"}:
        raise invalid(f"{param}.role", "user, assistant, system or developer")
    content = value.get("content")
    text_type = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        parts = [_text_part(text_type, content)]
    elif is_array(content):
        parts = [_read_part(part, f"{param}.content[{at}]") for at, part in enumerate(content)]
    else:
        raise missing(f"{param}.content")
    return {"role": role, "content": parts}


def _read_part(value: object, param: str) -> dict[str, Any]:
    if not is_object(value):
        raise invalid(param, "an object")
    kind = value.get("type")
    if kind not in _PARTS:
        raise invalid(f"{param}.type", f"one of {', '.join(sorted(_PARTS))}")
    key = _PARTS[kind]
    if key is None:
        return {"detail": "auto", **value} if kind == "input_image" else dict(value)
    text = value.get(key)
    if not isinstance(text, str):
        raise missing(f"{param}.{key}")
    return _text_part(kind, text) if key == "text" else {"type": kind, key: text}


def _text_part(kind: str, text: str) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "text": text}


def _read_output(value: dict[str, Any], param: str) -> Item:
    call_id, output = value.get("call_id"), value.get("output")
    if not isinstance(call_id, str) or not 0 < len(call_id) <= MAX_CALL_ID:
        raise invalid(f"{param}.call_id", f"a string of at most {MAX_CALL_ID} characters")
    if is_array(output):
        output = [_read_part(part, f"{param}.output[{at}]") for at, part in enumerate(output)]
    elif not isinstance(output, str):
        raise missing(f"{param}.output")
    elif len(output) > MAX_OUTPUT:
        raise invalid(f"{param}.output", f"at most {MAX_OUTPUT} characters")
    return {"call_id": call_id, "output": output}


def require_paired(history: Sequence[Item], added: Sequence[Item]) -> None:
    """Refuse a turn that leaves a function call unanswered, or answers none.

    Raises:
        ApiError: As the upstream says it; an orphan bricks its conversation until its
            output is supplied or the item is deleted.
    """
    everything = [*history, *added]
    called = {each["call_id"] for each in everything if each["type"] == "function_call"}
    answered = {each["call_id"] for each in everything if each["type"] == "function_call_output"}
    for item in everything:
        if item["type"] == "function_call" and item["call_id"] not in answered:
            raise ApiError(
                400,
                f"No tool output found for function call {item['call_id']}.",
                param="input",
            )
    for item in added:
        if item["type"] == "function_call_output" and item["call_id"] not in called:
            raise ApiError(
                400,
                f"No tool call found for function call output with call_id {item['call_id']}.",
                param="input",
            )


def require_new(history: Sequence[Item], added: Sequence[Item]) -> None:
    """Refuse items that the conversation already holds.

    Raises:
        ApiError: As when history is sent again together with its conversation.
    """
    seen = {item["id"] for item in history}
    for item in added:
        if item["id"] in seen:
            raise ApiError(
                400,
                f"Duplicate item found with id {item['id']}. "
                "Remove duplicate items from your input and try again.",
                param="input",
            )
        seen.add(item["id"])


def text_of(item: Item) -> str:
    """Return the text of a message or of a function's output."""
    content = item.get("content", item.get("output"))
    if isinstance(content, str):
        return content
    if not is_array(content):
        return ""
    return "\n".join(str(part["text"]) for part in content if is_object(part) and "text" in part)
