"""When a function is called, with what, and what is said about its output.

The rule: a function is called when the student's newest message contains its name (case
is ignored, spaces may stand for underscores), in the order of the names in the text; or
when `tool_choice` demands it. Names that stand after the word "afterwards" are called once the
earlier ones were answered; a message with the word "announce" is told of the calls first.
Arguments are filled from the function's schema: numbers from the text in their order,
strings from quotations or else the whole message, enumerations by the value that occurs,
objects of strings from assignments such as `x = 3`. Where several functions are named,
the quotation of each stands between its name and the next.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.sandbox.generation import Call
from app.sandbox.items import Item, text_of
from app.sandbox.jsonio import is_array, is_object

_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")
_QUOTED: Final = re.compile(r"[`\"“]([^`\"”]{1,500})[`\"”]")
_HANGUL: Final = re.compile(r"[가-힣]")
_ASSIGNED: Final = re.compile(r"\b([A-Za-z]) ?= ?(-?\d+(?:[./]\d+)?)")
_STAGES: Final = re.compile(r"\bafterwards\b|그다음", re.IGNORECASE)
_ANNOUNCED: Final = re.compile(r"\bannounce\b|알리고", re.IGNORECASE)
_MAX_ARGUMENT: Final = 2_000


def stages_of(text: str) -> list[str]:
    """Return the parts of a message whose functions are called one after the other."""
    return _STAGES.split(text)


def rounds_of(items: Sequence[Item]) -> int:
    """Count how often functions were called since the student's newest message."""
    count, was_call = 0, False
    for item in items:
        if item["type"] == "message" and item["role"] == "user":
            count = 0
        is_call = item["type"] == "function_call"
        count += is_call and not was_call
        was_call = is_call
    return count


def announcement(text: str, calls: Sequence[Call]) -> str | None:
    """Say which functions will be called, if the message wants to be told."""
    if _ANNOUNCED.search(text) is None:
        return None
    names = ", ".join(f"`{call.name}`" for call in calls)
    korean = _HANGUL.search(text) is not None
    return f"{names} 함수를 부르겠습니다." if korean else f"I am going to call {names}."


def choose_calls(
    text: str, tools: Sequence[dict[str, Any]], choice: str | dict[str, Any], *, parallel: bool
) -> list[Call]:
    """Decide which functions to call for a message.

    Args:
        text: The student's newest message.
        tools: The tools of the request.
        choice: Its `tool_choice`.
        parallel: Whether more than one call may be made.

    Returns:
        The calls in the order of the text; empty if the tutor answers itself.
    """
    functions = [tool for tool in tools if tool["type"] == "function"]
    if choice == "none" or not functions:
        return []
    named = [(place, tool) for tool in functions if (place := _place(text, tool["name"])) >= 0]
    chosen = [tool for _, tool in sorted(named, key=lambda pair: pair[0])]
    if is_object(choice):
        chosen = [tool for tool in functions if tool["name"] == choice.get("name")]
    elif choice == "required" and not chosen:
        chosen = functions[:1]
    if not parallel:
        chosen = chosen[:1]
    places = sorted(place for place, _ in named)
    return [Call(tool["name"], _arguments(_share(text, tool, places), tool)) for tool in chosen]


def _share(text: str, tool: dict[str, Any], places: Sequence[int]) -> str:
    """Return what of a message that names several functions is about one of them."""
    start = _place(text, tool["name"])
    end = next((place for place in places if place > start), len(text))
    share = text[start:end] if start >= 0 and len(places) > 1 else text
    return share if _QUOTED.search(share) else text


def quote_outputs(items: Sequence[Item]) -> str | None:
    """Say what the functions returned that were answered since the last message.

    Returns:
        A text with every output; None if none was answered.
    """
    names = {item["call_id"]: item["name"] for item in items if item["type"] == "function_call"}
    asked = ""
    lines: list[str] = []
    for item in reversed(items):
        if item["type"] == "message":
            asked = text_of(item)
            break
        if item["type"] == "function_call_output":
            lines.append(f"`{names.get(item['call_id'], '?')}`: {text_of(item)}")
    if not lines:
        return None
    korean = _HANGUL.search(asked) is not None
    lead = "함수가 돌려준 결과입니다." if korean else "The functions returned:"
    return "\n".join([lead, "", *(f"- {line}" for line in reversed(lines))])


def _place(text: str, name: str) -> int:
    pattern = re.escape(name).replace("_", "[ _]")
    found = re.search(rf"(?<![A-Za-z0-9_]){pattern}(?![A-Za-z0-9_])", text, re.IGNORECASE)
    return found.start() if found is not None else -1


@dataclass(frozen=True, slots=True)
class _Source:
    """What a message offers to arguments; each number and quotation is used once."""

    text: str
    numbers: Iterator[str]
    strings: Iterator[str]


def _arguments(text: str, tool: dict[str, Any]) -> str:
    parameters = tool.get("parameters")
    properties = parameters.get("properties") if is_object(parameters) else None
    if not is_object(properties):
        return "{}"
    rest = re.sub(re.escape(tool["name"]), " ", text, flags=re.IGNORECASE)
    source = _Source(
        rest.strip()[:_MAX_ARGUMENT], iter(_NUMBER.findall(rest)), iter(_QUOTED.findall(rest))
    )
    values = {name: _value(schema, source) for name, schema in properties.items()}
    return json.dumps(values, ensure_ascii=False)


def _value(schema: object, source: _Source) -> Any:
    if is_object(schema) and is_array(schema.get("anyOf")):
        schema = schema["anyOf"][0]
    if is_object(schema) and is_object(schema.get("additionalProperties")):
        return dict(_ASSIGNED.findall(_QUOTED.sub(" ", source.text)))
    if not is_object(schema):
        return source.text
    options, kind = schema.get("enum"), schema.get("type")
    if is_array(options) and options:
        return next((each for each in options if str(each) in source.text), options[0])
    if is_array(kind):
        kind = kind[0] if kind else None
    if kind in {"number", "integer"}:
        number = float(next(source.numbers, "0"))
        return number if kind == "number" else int(number)
    plain: dict[object, Any] = {
        "boolean": True,
        "array": [source.text],
        "object": {},
        "null": None,
    }
    return plain[kind] if kind in plain else next(source.strings, source.text)
