"""Fault rules: what they match, what they do, how often.

A rule is JSON, see `read_rule`. Rules are tried in their order; the first that fires for a
request decides alone. A matching call counts for a rule even while it does not fire yet,
unless an earlier rule fired for it.

The types of action, with the fields that each reads:

- instead of an answer: `status` (status, retry_after, code, message, error_type, headers,
  body, after_work), `html`, `json_body` (body), `reset` without `at` (after_work). With
  `after_work` the endpoint has done its work when its answer is lost.
- before an answer: `delay` (seconds), `stall` without `at` (seconds).
- in a stream, `at` an event: `reset`, `eof` (position, finish), `stall` (seconds), `drip`
  (interval_s, chunk_bytes) and `no_sequence` from there on, `duplicate` (count; without
  `at` every event), `reorder`, `drop`, `garbage_json`, `bad_utf8`, `unknown_event` (event),
  `oversize` (megabytes); the last four come before the event, or `replace` it. With
  `finish` a foreground generation goes on although its reader is gone.
- in the generation, `after_deltas`: `fail` and `error` (code, message), `incomplete` (by
  the content filter), `stuck` (for ever, at its beginning).
"""

import fnmatch
import math
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from app.sandbox.errors import ApiError, invalid
from app.sandbox.generation import Ending
from app.sandbox.ids import new_id
from app.sandbox.jsonio import is_object

ENDING_KEY: Final = "sandbox.ending"
"""Where the fault gate leaves an `Ending` for the endpoint."""

ACTIONS: Final = frozenset({
    "status", "html", "json_body", "reset", "eof", "delay", "stall", "drip", "garbage_json",
    "bad_utf8", "duplicate", "reorder", "drop", "no_sequence", "unknown_event", "oversize",
    "fail", "error", "incomplete", "stuck",
})  # fmt: skip
ENDINGS: Final = frozenset({"fail", "error", "incomplete", "stuck"})
_RULE_FIELDS: Final = frozenset({
    "id", "method", "path", "text", "stream", "nth", "times", "action",
})  # fmt: skip
_ACTION_FIELDS: Final = frozenset({
    "type", "at", "status", "retry_after", "code", "message", "error_type", "body", "headers",
    "after_work", "finish", "seconds", "interval_s", "chunk_bytes", "megabytes", "count",
    "replace", "position", "after_deltas", "event",
})  # fmt: skip
_MAX_MEGABYTES: Final = 512
_MAX_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class At:
    """A place in a stream: the nth event of a name, or the event at an index."""

    event: str | None = None
    nth: int = 1
    index: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """What a rule does; each type reads the fields that it knows."""

    type: str
    at: At | None = None
    status: int = 500
    retry_after: str | None = None
    code: str | None = None
    message: str = "The server had an error while processing your request."
    error_type: str = "server_error"
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    after_work: bool = False
    finish: bool = False
    seconds: float = 3600.0
    interval_s: float = 0.05
    chunk_bytes: int = 1
    megabytes: float = 50.0
    count: int = 2
    replace: bool = False
    position: str = "before"
    after_deltas: int = 0
    event: str = "response.sparkle.delta"


@dataclass(slots=True)
class Rule:
    """A match, how often it fires, and an action."""

    id: str
    action: Action
    source: dict[str, Any]
    method: str | None = None
    path: str = "/v1/*"
    text: str | None = None
    stream: bool | None = None
    nth: int = 1
    times: int | None = 1
    matched: int = 0
    fired: int = 0

    def take(self, method: str, path: str, body: object) -> bool:
        """Count a call if it matches, and tell whether the rule fires for it."""
        if self.method is not None and self.method != method:
            return False
        if not fnmatch.fnmatchcase(path, self.path):
            return False
        if self.stream is not None and self.stream != (_streams(body)):
            return False
        if self.text is not None and not _contains(body, self.text):
            return False
        self.matched += 1
        if self.matched < self.nth or (self.times is not None and self.fired >= self.times):
            return False
        self.fired += 1
        return True

    def view(self) -> dict[str, Any]:
        """Return the rule as it was given, with its counters."""
        return {**self.source, "id": self.id, "matched": self.matched, "fired": self.fired}


class FaultBook:
    """The rules in force."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def take(self, method: str, path: str, body: object) -> Action | None:
        """Return the action of the first rule that fires."""
        for rule in self.rules:
            if rule.take(method, path, body):
                return rule.action
        return None


def ending_of(scope: MutableMapping[str, Any]) -> Ending | None:
    """Return the ending that the fault gate planned for this request."""
    return cast(Ending | None, scope.get(ENDING_KEY))


def read_rule(value: object) -> Rule:
    """Read a rule.

    Args:
        value: `{"action": {"type": …}, "method", "path", "text", "stream", "nth", "times",
            "id"}`. `path` is a glob, `text` must occur in a string of the request's body,
            the rule fires for `times` calls (null: for all) from the `nth` matching one.

    Raises:
        ApiError: 400, saying which field is wrong.
    """
    if not is_object(value):
        raise invalid("rule", "an object")
    _refuse_unknown(value, _RULE_FIELDS)
    times = value.get("times", 1)
    stream = value.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise invalid("stream", "a boolean")
    method = _string(value, "method", None)
    return Rule(
        id=_string(value, "id", None) or new_id("fault"),
        action=_read_action(value.get("action")),
        source=value,
        method=method.upper() if method else None,
        path=_string(value, "path", None) or "/v1/*",
        text=_string(value, "text", None),
        stream=stream,
        nth=_integer(value, "nth", 1, least=1),
        times=None if times is None else _integer(value, "times", 1, least=1),
    )


def _read_action(value: object) -> Action:
    if not is_object(value):
        raise invalid("action", "an object")
    _refuse_unknown(value, _ACTION_FIELDS)
    kind = value.get("type")
    if kind not in ACTIONS:
        raise invalid("action.type", f"one of {', '.join(sorted(ACTIONS))}")
    retry_after = value.get("retry_after")
    headers = value.get("headers", {})
    if not is_object(headers) or not all(isinstance(each, str) for each in headers.values()):
        raise invalid("action.headers", "an object of strings")
    position = value.get("position", "before")
    if position not in {"before", "middle", "after"}:
        raise invalid("action.position", "before, middle or after")
    default = Action(kind)
    return Action(
        type=kind,
        at=_read_at(value.get("at")),
        status=_integer(value, "status", default.status, least=200, most=599),
        retry_after=None if retry_after is None else str(retry_after),
        code=_string(value, "code", None),
        message=_string(value, "message", None) or default.message,
        error_type=_string(value, "error_type", None) or _error_type(value.get("status")),
        body=value.get("body"),
        headers=cast(dict[str, str], headers),
        after_work=_flag(value, "after_work"),
        finish=_flag(value, "finish"),
        seconds=_number(value, "seconds", default.seconds, _MAX_SECONDS),
        interval_s=_number(value, "interval_s", default.interval_s, _MAX_SECONDS),
        chunk_bytes=_integer(value, "chunk_bytes", default.chunk_bytes, least=1),
        megabytes=_number(value, "megabytes", default.megabytes, _MAX_MEGABYTES),
        count=_integer(value, "count", default.count, least=2, most=1000),
        replace=_flag(value, "replace"),
        position=position,
        after_deltas=_integer(value, "after_deltas", 0, least=0),
        event=_string(value, "event", None) or default.event,
    )


def _read_at(value: object) -> At | None:
    if value is None:
        return None
    if not is_object(value):
        raise invalid("action.at", "an object")
    _refuse_unknown(value, frozenset({"event", "nth", "index"}))
    return At(
        event=_string(value, "event", None),
        nth=_integer(value, "nth", 1, least=1),
        index=_integer(value, "index", 0, least=0),
    )


def _error_type(status: object) -> str:
    if isinstance(status, int) and 400 <= status < 500:  # noqa: PLR2004 (the client's fault)
        return "invalid_request_error"
    return "server_error"


def _refuse_unknown(value: dict[str, Any], known: frozenset[str]) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise ApiError(400, f"Unknown fields: {', '.join(unknown)}.", code="unknown_parameter")


def _string(value: dict[str, Any], name: str, default: str | None) -> str | None:
    found = value.get(name, default)
    if found is not None and not isinstance(found, str):
        raise invalid(name, "a string")
    return found


def _flag(value: dict[str, Any], name: str) -> bool:
    found = value.get(name, False)
    if not isinstance(found, bool):
        raise invalid(name, "a boolean")
    return found


def _integer(
    value: dict[str, Any], name: str, default: int, *, least: int, most: int = 1_000_000
) -> int:
    found = value.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
        raise invalid(name, f"an integer from {least} to {most}")
    return found


def _number(value: dict[str, Any], name: str, default: float, most: float) -> float:
    found = value.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise invalid(name, "a number")
    if not math.isfinite(found) or not 0 <= found <= most:
        raise invalid(name, f"a number from 0 to {most:.0f}")
    return float(found)


def _streams(body: object) -> bool:
    return is_object(body) and body.get("stream") is True


def _contains(value: object, text: str) -> bool:
    if isinstance(value, str):
        return text in value
    if isinstance(value, dict):
        return any(_contains(each, text) for each in cast(dict[str, object], value).values())
    if isinstance(value, list):
        return any(_contains(each, text) for each in cast(list[object], value))
    return False
