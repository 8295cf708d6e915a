"""Reading what the vendor sends: JSON of any shape, and text that Postgres may refuse."""

import json
import re
from typing import Any, Final

from pydantic_core import from_json

from app.domain.text import clean

_ID: Final = re.compile(r"[\w:~-]{1,200}", re.ASCII)


def load(data: bytes) -> Any:
    """Parse JSON."""
    # Every token passes here: the standard parser takes five times as long.
    try:
        return from_json(data)
    except ValueError:
        # The standard parser takes half a surrogate pair, which one delta may bring and the next
        # complete; but also what is nested deeper than `clean_json` lets through.
        if b"\\u" not in data:
            raise
        return json.loads(data)


def text(value: object) -> str:
    """Refuse what is no text. It is cleaned where it is shown: a delta may be half a pair."""
    if not isinstance(value, str):
        raise TypeError
    return value


def name(value: object) -> str:
    """Return text that is stored as it is: without what Postgres refuses."""
    return clean(text(value))


def ident(value: object) -> str:
    """Return an id that may stand in a path; what could lead elsewhere is none."""
    found = text(value)
    if _ID.fullmatch(found) is None:
        raise ValueError
    return found
