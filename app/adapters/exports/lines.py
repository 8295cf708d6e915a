"""Lines of a file that may be larger than memory, and may be anything.

No complaint quotes a line: it may hold a student's words.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NoReturn, TypeGuard, cast

from app.domain.models import JsonObject

MAX_LINE_BYTES: Final = 32 << 20
"""A page of 100 of the longest messages has room in it."""
_SKIPPED_AT_ONCE: Final = 1 << 20
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")

THREAD: Final = "thread"
MESSAGE: Final = "thread.message"
RUN: Final = "thread.run"
_TAKEN: Final = frozenset({THREAD, MESSAGE, RUN})
_KNOWN: Final = frozenset(
    {
        "assistant",
        "file",
        "thread.run.step",
        "vector_store",
        "vector_store.file",
    }
)
"""What exports hold besides, and has no place in a session."""


class UnreadableError(Exception):
    """A line, or an object in it, can't be taken; `reason` is one of ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file."""

    number: int
    offset: int
    end: int
    data: bytes | None
    """None if it is too long to be read."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object of a line that belongs to a thread."""

    kind: str
    thread_id: str
    id: str
    body: JsonObject
    in_page: bool
    """Whether it came in a page of a list, whose order is the newest first unless asked for."""


def lines(file: BinaryIO, *, most_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Read a file line by line; what is longer than `most_bytes` is passed over."""
    number = end = 0
    while data := file.readline(most_bytes + 1):
        number, offset, end = number + 1, end, end + len(data)
        is_whole = len(data) <= most_bytes or data.endswith(b"\n")
        rest = data
        while rest and not is_whole and not rest.endswith(b"\n"):
            rest = file.readline(_SKIPPED_AT_ONCE)
            end += len(rest)
        yield Line(number, offset, end, data if is_whole else None)


def objects(line: Line) -> list[Found | UnreadableError]:
    """Return what a line holds: one object, a page of a list, or a thread with all that is its.

    A blank line holds nothing.
    """
    if line.data is None:
        return [UnreadableError("line_too_long")]
    if not line.data.strip():
        return []
    try:
        return list(_unpacked(_parsed(line.data)))
    except UnreadableError as error:
        return [error]


def _parsed(data: bytes) -> Any:
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except UnicodeDecodeError:
        raise UnreadableError("not_utf8") from None
    except ValueError:
        raise UnreadableError("not_json") from None
    except RecursionError:
        raise UnreadableError("too_deep") from None
    return value


def _refuse(_name: str) -> NoReturn:
    raise ValueError("not JSON")


def _unpacked(value: Any) -> Iterator[Found | UnreadableError]:
    match value:
        case {"object": "list", "data": [*items]}:
            for item in items:
                yield _found(item, in_page=True)
        case {"thread": {**thread}, **rest} if "object" not in value:
            yield _found(thread, kind=THREAD)
            for name, kind in (("messages", MESSAGE), ("runs", RUN)):
                yield from _bundled(rest.get(name), kind, thread.get("id"))
        case _:
            yield _found(value)


def _bundled(value: Any, kind: str, thread_id: Any) -> Iterator[Found | UnreadableError]:
    match value:
        case None:
            return
        case [*items] | {"data": [*items]}:
            for item in items:
                in_page = isinstance(value, dict)
                yield _found(item, kind=kind, thread_id=thread_id, in_page=in_page)
        case _:
            yield UnreadableError("not_a_list")


def _found(
    value: Any, *, kind: str | None = None, thread_id: Any = None, in_page: bool = False
) -> Found | UnreadableError:
    if not isinstance(value, dict):
        return UnreadableError("not_an_object")
    body = cast("JsonObject", value)
    named = body.get("object", kind)
    if not isinstance(named, str) or named not in _TAKEN:
        is_known = isinstance(named, str) and named in _KNOWN
        return UnreadableError("unsupported_object" if is_known else "unknown_object")
    item_id = body.get("id")
    if not is_id(item_id):
        return UnreadableError("no_id")
    owner = item_id if named == THREAD else body.get("thread_id", thread_id)
    if not is_id(owner):
        return UnreadableError("no_thread")
    return Found(named, owner, item_id, body, in_page)


def is_id(value: Any) -> TypeGuard[str]:
    """Tell whether something can be an id; what can't be one is never shown in a report."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None
