"""What fields of bodies may hold: text that can be kept, lines, metadata, JSON."""

import math
import unicodedata
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from app.domain.text import is_storable

M = TypeVar("M")

NOT_IN_LINES: Final = frozenset({"Cc", "Zl", "Zp"})
"""Controls, and separators of lines and paragraphs."""
MAX_JSON_DEPTH: Final = 64


def _storable(text: str) -> str:
    if not is_storable(text):
        raise ValueError("must not contain U+0000 or lone surrogates")
    return text


def _one_line(text: str) -> str:
    # Spaces of other scripts and joiners of emoji are no control characters.
    if any(unicodedata.category(character) in NOT_IN_LINES for character in text):
        raise ValueError("must be one line without control characters")
    return text


def storable_json(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what Postgres can't keep, or nobody could read again."""
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"must not be nested deeper than {MAX_JSON_DEPTH} levels")
        if isinstance(item, str):
            _storable(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("must not contain NaN or infinity")
        elif isinstance(item, list):
            items: list[Any] = item  # pyright: ignore[reportUnknownVariableType]
            pending.extend((inner, depth + 1) for inner in items)
        elif isinstance(item, dict):
            members: dict[str, Any] = item  # pyright: ignore[reportUnknownVariableType]
            pending.extend((inner, depth + 1) for pair in members.items() for inner in pair)
    return value


def object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse the schema of anything but an object; none at all is fine."""
    if schema and schema.get("type") != "object":
        raise ValueError("must be the schema of an object: its `type` is not `object`")
    return schema


def storable_model(value: M) -> M:
    """Refuse what `storable_json` does, in a model that was read already."""
    if isinstance(value, BaseModel):
        storable_json(value.model_dump())
    return value


Text = Annotated[str, AfterValidator(_storable)]
Line = Annotated[str, AfterValidator(_storable), AfterValidator(_one_line)]
Metadata = Annotated[
    dict[
        Annotated[Line, StringConstraints(min_length=1, max_length=64)],
        Annotated[Text, StringConstraints(max_length=512)],
    ],
    Field(max_length=16, description="Up to 16 pairs, 64 and 512 characters."),
]
Json = Annotated[dict[str, Any], AfterValidator(storable_json)]
PublicId = Annotated[str, StringConstraints(max_length=128)]
