"""The form of an answer: text, any JSON object, or one that satisfies a schema.

A tutor without a model has an answer, its steps, and the words around them. Properties are filled
with these by their names and types; what it has nothing for gets an empty value of its type.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.sandbox.errors import ApiError, invalid, missing
from app.sandbox.jsonio import is_array, is_object

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")
_JSON: Final = re.compile("json", re.IGNORECASE)
_MAX_DEPTH: Final = 12
_TEXT: Final[dict[str, Any]] = {"type": "text"}
_ANSWERS: Final = ("answer", "result", "solution", "final", "output", "value")
_QUESTIONS: Final = ("question", "problem", "topic", "title")


@dataclass(frozen=True, slots=True)
class Solution:
    """What there is to fill a form with."""

    question: str
    words: str

    @property
    def steps(self) -> list[str]:
        """The paragraphs."""
        return [part.strip() for part in self.words.split("\n\n") if part.strip()]

    @property
    def answer(self) -> str:
        """The last paragraph, where the tutor's result stands."""
        return self.steps[-1] if self.steps else ""

    def text_for(self, name: str) -> str:
        """Return the text that belongs under a name."""
        lowered = name.casefold()
        if any(word in lowered for word in _ANSWERS):
            return self.answer
        if any(word in lowered for word in _QUESTIONS):
            return self.question
        return self.words

    def number(self) -> float:
        """Return the answer's last number; 0 where it has none."""
        found = _NUMBER.findall(self.answer)
        return float(found[-1]) if found else 0.0


def read_format(text: object) -> dict[str, Any]:
    """Return the `format` of a request's `text`.

    Raises:
        ApiError: It is none, or its schema is not what a strict one must be.
    """
    if text is None:
        return _TEXT
    if not is_object(text):
        raise invalid("text", "an object")
    wanted = text.get("format")
    if wanted is None:
        return _TEXT
    return _checked(wanted)


def _checked(wanted: object) -> dict[str, Any]:
    if not is_object(wanted) or wanted.get("type") not in {"text", "json_object", "json_schema"}:
        raise invalid("text.format", "text, json_object or json_schema")
    if wanted["type"] != "json_schema":
        return {"type": wanted["type"]}
    name, schema = wanted.get("name"), wanted.get("schema")
    if not isinstance(name, str):
        raise missing("text.format.name")
    if not _NAME.fullmatch(name):
        raise invalid("text.format.name", "at most 64 letters, digits, underscores and dashes")
    if not is_object(schema):
        raise missing("text.format.schema")
    if schema.get("type", "object") != "object":
        raise _bad_schema(
            name, f"schema must be a JSON Schema of 'type: \"object\"', got '{schema['type']}'."
        )
    if wanted.get("strict"):
        _require_strict(name, schema, ())
    return {"description": None, "strict": False, **wanted}


def _bad_schema(name: str, why: str) -> ApiError:
    return ApiError(
        400,
        f"Invalid schema for response_format '{name}': {why}",
        param="text.format.schema",
        code="invalid_json_schema",
    )


def _require_strict(name: str, schema: dict[str, Any], path: Sequence[str]) -> None:
    properties = schema.get("properties")
    if is_object(properties):
        if schema.get("additionalProperties") is not False:
            raise _bad_schema(
                name,
                f"In context={tuple(path)}, 'additionalProperties' is required to be supplied "
                "and to be false.",
            )
        required = schema.get("required")
        if not is_array(required) or sorted(map(str, required)) != sorted(properties):
            raise _bad_schema(
                name,
                f"In context={tuple(path)}, 'required' is required to be supplied and to be an "
                "array including every key in properties.",
            )
        for key, inner in properties.items():
            if is_object(inner):
                _require_strict(name, inner, (*path, "properties", key))
    items = schema.get("items")
    if is_object(items):
        _require_strict(name, items, (*path, "items"))


def require_word(wanted: dict[str, Any], texts: Sequence[str]) -> None:
    """Refuse JSON mode where nobody speaks of JSON: a model would write blanks for ever.

    Raises:
        ApiError: 400.
    """
    if wanted["type"] == "json_object" and not any(_JSON.search(text) for text in texts):
        raise ApiError(
            400,
            "Response input messages must contain the word 'json' in some form to use "
            "'text.format' of type 'json_object'.",
            param="input",
        )


def write(wanted: dict[str, Any], solution: Solution) -> str:
    """Write a solution in the form that is wanted."""
    if wanted["type"] == "text":
        return solution.words
    value: Any = {"answer": solution.answer, "steps": solution.steps}
    if wanted["type"] == "json_schema":
        schema: dict[str, Any] = wanted["schema"]
        if "properties" in schema or "$ref" in schema or "anyOf" in schema:
            value = _Form(schema, solution).fill(schema, "", 0)
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Form:
    root: dict[str, Any]
    solution: Solution

    def fill(self, schema: Any, name: str, depth: int) -> Any:
        schema = self._plain(schema)
        if "const" in schema:
            return schema["const"]
        options = schema.get("enum")
        if is_array(options) and options:
            words = self.solution.words.casefold()
            return next((each for each in options if str(each).casefold() in words), options[0])
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if is_array(kind):
            kind = next((each for each in kind if each != "null"), "null")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        return self._plain_value(schema, kind, name)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not is_object(properties) or depth >= _MAX_DEPTH:
            return {}
        return {key: self.fill(inner, key, depth + 1) for key, inner in properties.items()}

    def _plain_value(self, schema: dict[str, Any], kind: str, name: str) -> Any:
        if kind in {"number", "integer"}:
            value = max(self.solution.number(), schema.get("minimum", float("-inf")))
            value = min(value, schema.get("maximum", float("inf")))
            return int(value) if kind == "integer" or value == int(value) else value
        if kind in {"boolean", "null"}:
            return True if kind == "boolean" else None
        text = self.solution.text_for(name)
        return text[: schema.get("maxLength", len(text))]

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", 20)
        items = self._plain(schema.get("items") or {})
        if depth >= _MAX_DEPTH:
            return [self.fill(items, name, depth + 1) for _ in range(least)]
        if items.get("type") in {"number", "integer", "boolean"}:
            return [self.fill(items, name, depth + 1)] * max(1, least)
        filled = [
            _Form(self.root, Solution(self.solution.question, step)).fill(items, name, depth + 1)
            for step in self.solution.steps[:most]
        ]
        while len(filled) < least:
            filled.append(self.fill(items, name, depth + 1))
        return filled

    def _plain(self, schema: Any) -> dict[str, Any]:
        """Follow references, and choose among alternatives the first that is not null."""
        for _ in range(_MAX_DEPTH):
            if not is_object(schema):
                return {}
            if isinstance(schema.get("$ref"), str):
                schema = self._referred(schema["$ref"])
                continue
            options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
            if not is_array(options) or not options:
                return schema
            plain = [each for each in options if is_object(each) and each.get("type") != "null"]
            schema = plain[0] if plain else options[0]
        return {}

    def _referred(self, reference: str) -> Any:
        found: Any = self.root
        for key in reference.lstrip("#/").split("/"):
            if key:
                found = found.get(key) if is_object(found) else None
        return found
