"""Objects of the Assistants API, in our words.

What is said of an object that can't be taken, or not as it was, is a reason of ours.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast
from unicodedata import category

from app.adapters.exports.lines import UnreadableError, is_id
from app.domain.history import PastMessage, PastRun
from app.domain.models import (
    JsonObject,
    MessageStatus,
    Part,
    PartKind,
    Role,
    RunStatus,
    Usage,
)
from app.domain.text import clean, is_storable

Complain = Callable[[str], None]
"""Takes a reason."""

MAX_CHARS: Final = 256_000
"""Of one message, as the API had it."""
MAX_PAIRS: Final = 16
MAX_KEY_CHARS: Final = 64
MAX_VALUE_CHARS: Final = 512
MAX_MODEL_CHARS: Final = 256
MAX_NOTE_CHARS: Final = 8192
_LAST_SECOND: Final = 4_102_444_800
"""The year 2100: what is later was no number of seconds."""
_NOT_IN_LINES: Final = frozenset({"Cc", "Zl", "Zp"})
_MAX_TOKENS: Final = 1 << 53

NO_PICTURE: Final = "[picture: not available here]"
NO_FILE: Final = "[file: not available here]"
"""Stand where the file stood: the tutor is told that there was one, and does not guess."""

_UNFINISHED: Final = {
    "queued": RunStatus.EXPIRED,
    "in_progress": RunStatus.EXPIRED,
    "requires_action": RunStatus.EXPIRED,
    "cancelling": RunStatus.CANCELLED,
}
_ENDED_AT: Final = {
    RunStatus.COMPLETED: "completed_at",
    RunStatus.INCOMPLETE: "completed_at",
    RunStatus.FAILED: "failed_at",
    RunStatus.CANCELLED: "cancelled_at",
    RunStatus.EXPIRED: "expires_at",
}
_CODES: Final = {
    "rate_limit_exceeded": "upstream_rate_limited",
    "invalid_prompt": "upstream_rejected",
}
_REASONS: Final = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "max_prompt_tokens": "max_prompt_tokens",
    "content_filter": "content_filter",
}


def message(body: JsonObject, complain: Complain) -> PastMessage:
    """Return a message.

    Raises:
        UnreadableError: It lacks what a message can't be without.
    """
    created_at = _instant(body.get("created_at"))
    if created_at is None:
        raise UnreadableError("no_created_at")
    role = {"user": Role.USER, "assistant": Role.ASSISTANT}.get(_word(body.get("role")))
    if role is None:
        raise UnreadableError("unknown_role")
    status = _message_status(body.get("status"))
    ended_at = _instant(body.get("completed_at")) or _instant(body.get("incomplete_at"))
    run_id, assistant_id = body.get("run_id"), body.get("assistant_id")
    return PastMessage(
        id=body["id"],
        role=role,
        run_id=run_id if role is Role.ASSISTANT and is_id(run_id) else None,
        # What a student said is whole from the start.
        status=MessageStatus.COMPLETED if role is Role.USER else status,
        content=_content(body, complain),
        metadata=metadata(body, complain),
        created_at=created_at,
        completed_at=max(created_at, ended_at or created_at),
        assistant_id=assistant_id if is_id(assistant_id) else None,
        incomplete_reason=_reason(body),
    )


def run(body: JsonObject, complain: Complain) -> PastRun:
    """Return a run; one that was unfinished has expired, or is cancelled if it was about to be.

    Raises:
        UnreadableError: It lacks what a run can't be without.
    """
    created_at = _instant(body.get("created_at"))
    if created_at is None:
        raise UnreadableError("no_created_at")
    told = _word(body.get("status"))
    status = _UNFINISHED.get(told)
    is_unfinished = status is not None
    if status is None:
        try:
            status = RunStatus(told)
        except ValueError:
            raise UnreadableError("unknown_status") from None
    model, assistant_id = body.get("model"), body.get("assistant_id")
    is_model = isinstance(model, str) and 0 < len(model) <= MAX_MODEL_CHARS
    return PastRun(
        id=body["id"],
        status=status,
        metadata=metadata(body, complain),
        created_at=created_at,
        assistant_id=assistant_id if is_id(assistant_id) else None,
        model=clean(cast("str", model)) if is_model else None,
        error_code="run_unfinished" if is_unfinished else _error_code(body, status),
        incomplete_reason=_reason(body) if status is RunStatus.INCOMPLETE else None,
        usage=_usage(body.get("usage"), complain),
        started_at=_instant(body.get("started_at")),
        ended_at=None if is_unfinished else _instant(body.get(_ENDED_AT[status])),
    )


def thread_created_at(body: JsonObject) -> datetime | None:
    """Return when a thread was opened."""
    return _instant(body.get("created_at"))


def named_at(body: JsonObject, path: Sequence[str]) -> str | None:
    """Return the name that stands at a path into an object; a number is its digits."""
    value: Any = body
    for step in path:
        if not isinstance(value, dict):
            return None
        value = cast("JsonObject", value).get(step)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def metadata(body: JsonObject, complain: Complain) -> JsonObject:
    """Return the pairs that are within our limits."""
    found = body.get("metadata")
    if found is None:
        return {}
    if not isinstance(found, dict):
        complain("metadata")
        return {}
    pairs: JsonObject = {}
    for key, value in cast("JsonObject", found).items():
        fits = (
            isinstance(value, str)
            and 0 < len(key) <= MAX_KEY_CHARS
            and _is_line(key)
            and len(value) <= MAX_VALUE_CHARS
            and len(pairs) < MAX_PAIRS
        )
        if fits:
            pairs[key] = clean(value)
        else:
            complain("metadata")
    return pairs


def _content(body: JsonObject, complain: Complain) -> list[Part]:
    content = body.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise UnreadableError("no_content")
    parts: list[Part] = []
    for item in content:  # pyright: ignore[reportUnknownVariableType]
        part = _part(item, complain)
        if part is not None:
            parts.append(part)
    if body.get("attachments"):
        complain("attachment")
        parts.append(Part(NO_FILE))
    if sum(len(part.text) for part in parts) > MAX_CHARS:
        raise UnreadableError("too_long")
    return parts


def _part(item: Any, complain: Complain) -> Part | None:
    match item:
        case {"type": "text", "text": {"value": str(text), **rest}}:
            return Part(clean(text), annotations=_annotations(rest.get("annotations"), complain))
        case {"type": "text", "text": str(text)}:
            return Part(clean(text))
        case {"type": "refusal", "refusal": str(text)}:
            return Part(clean(text), PartKind.REFUSAL)
        case {"type": "image_file" | "image_url"}:
            complain("picture")
            return Part(NO_PICTURE)
        case {"type": "file"}:
            complain("file")
            return Part(NO_FILE)
        case _:
            complain("unknown_part")
            return None


def _annotations(found: Any, complain: Complain) -> tuple[JsonObject, ...]:
    if found is None:
        return ()
    notes = [_annotation(note) for note in cast("list[Any]", found)] if _is_list(found) else [None]
    if None in notes:
        complain("annotation")
    return tuple(note for note in notes if note is not None)


def _annotation(note: Any) -> JsonObject | None:
    """A note without the object of its own kind inside: a file's id stands beside its place."""
    if not isinstance(note, dict):
        return None
    outer = cast("JsonObject", note)
    kind = outer.get("type")
    if not isinstance(kind, str):
        return None
    inner = outer.get(kind)
    flat = outer | (cast("JsonObject", inner) if isinstance(inner, dict) else {})
    return {
        clean(name): clean(value) if isinstance(value, str) else value
        for name, value in flat.items()
        if (isinstance(value, str) and len(value) <= MAX_NOTE_CHARS) or _is_count(value)
    }


def _usage(found: Any, complain: Complain) -> Usage | None:
    match found:
        case None:
            return None
        case {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": total} if all(
            _is_count(count) for count in (asked, said, total)
        ):
            return Usage(asked, said, total)
        case _:
            complain("usage")
            return None


def _error_code(body: JsonObject, status: RunStatus) -> str | None:
    """The code alone: the upstream's words may be a student's."""
    if status is not RunStatus.FAILED:
        return None
    match body.get("last_error"):
        case {"code": str(code)}:
            return _CODES.get(code, "upstream_error")
        case _:
            return "upstream_error"


def _reason(body: JsonObject) -> str | None:
    match body.get("incomplete_details"):
        case {"reason": str(reason)}:
            return _REASONS.get(reason)
        case _:
            return None


def _message_status(value: Any) -> MessageStatus:
    # The API itself left it null for a while.
    match value:
        case None | "completed":
            return MessageStatus.COMPLETED
        case "incomplete" | "in_progress":
            return MessageStatus.INCOMPLETE
        case _:
            raise UnreadableError("unknown_status")


def _is_line(text: str) -> bool:
    """As the API wants keys: what can be stored, and is one line."""
    return is_storable(text) and not any(category(mark) in _NOT_IN_LINES for mark in text)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS


def _instant(value: Any) -> datetime | None:
    """Read seconds since 1970."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not (math.isfinite(value) and 0 <= value < _LAST_SECOND):
        return None
    return datetime.fromtimestamp(value, UTC)
