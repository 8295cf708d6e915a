"""What may be stored as text, and how instants are written."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

MAX_NAME_CHARS: Final = 256
"""Of a subject and of a tenant."""
MAX_NESTING: Final = 100
"""How deep JSON from outside may be nested: far below what can't be written as JSON again."""


def is_storable(text: str) -> bool:
    """Tell whether Postgres can keep `text`: no U+0000, no lone surrogate."""
    if "\x00" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_name(text: str) -> bool:
    """Tell whether it may be a token's `sub` or `tenant`."""
    return 0 < len(text) <= MAX_NAME_CHARS and is_storable(text)


def clean(text: str) -> str:
    """Replace what Postgres refuses by U+FFFD; a surrogate pair becomes its character."""
    if is_storable(text):
        return text
    paired = text.replace("\x00", "\ufffd").encode("utf-16-le", "surrogatepass")
    return paired.decode("utf-16-le", "replace")


@lru_cache(maxsize=16)
def rfc3339(instant: datetime) -> str:
    """Write an aware instant as UTC with microseconds: `2026-11-24T08:00:00.000000Z`."""
    # Every event passes here, in UTC already, and all of one commit with one instant.
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    return instant.isoformat(timespec="microseconds")[:-6] + "Z"


def clean_json(value: Any, *, room: int = MAX_NESTING) -> Any:
    """Return JSON without what Postgres refuses, in its names as in its values.

    Raises:
        ValueError: It is nested deeper than `room`.
    """
    if isinstance(value, str):
        return clean(value)
    if not room:
        raise ValueError
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [clean_json(item, room=room - 1) for item in items]
    if isinstance(value, dict):
        members: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {clean(name): clean_json(each, room=room - 1) for name, each in members.items()}
    return value
