"""What may be stored as text, and how instants are written."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any


def is_storable(text: str) -> bool:
    """Tell whether Postgres can keep `text`: no U+0000, no lone surrogate."""
    if "\x00" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def clean_json(value: Any) -> Any:
    """Return JSON without what Postgres refuses, in its names as in its values."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [clean_json(item) for item in items]
    if isinstance(value, dict):
        members: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {clean(name): clean_json(member) for name, member in members.items()}
    return value
