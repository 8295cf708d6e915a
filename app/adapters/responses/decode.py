"""The dialect's events and objects, as domain events.

Events are told apart by their `type` alone. Unknown ones are passed over: the vendor adds some
every few months.
"""

from collections.abc import Sequence
from typing import Any, Final

from app.adapters.responses.steps import step_of_event
from app.adapters.wire.errors import UNREADABLE, failure, interrupted, of_response
from app.adapters.wire.values import load, name, text
from app.domain.models import Part, PartKind, RunStatus, ToolCall, Usage
from app.domain.text import clean_json
from app.ports import Ended, Started, TextDelta, UpstreamEvent

TEXT_DELTA: Final = "response.output_text.delta"
REFUSAL_DELTA: Final = "response.refusal.delta"
ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_STATUSES: Final = {
    "completed": RunStatus.COMPLETED,
    "incomplete": RunStatus.INCOMPLETE,
    "failed": RunStatus.FAILED,
    "cancelled": RunStatus.CANCELLED,
    # Not documented of a response, but of what it replaces.
    "expired": RunStatus.EXPIRED,
}


class ResponseDecoder:
    """One stream's state: which parts have appeared, and which events were seen."""

    def __init__(self) -> None:
        self._parts: dict[tuple[Any, Any], int] = {}
        self._last = -1
        self._last_type: str = ""

    def decode(self, data: bytes) -> Sequence[UpstreamEvent | Ended]:
        """Return what an event means, if anything.

        Raises:
            UpstreamError: The upstream reports an error, or sends what can't be read.
        """
        try:
            event = load(data)
            type_: str = event["type"]
            if self._is_repeated(type_, event):
                return ()
            # Every token passes here.
            if type_ == TEXT_DELTA:
                return (TextDelta(self._part(event), text(event["delta"])),)
            return self._others(type_, event)
        except UNREADABLE:
            raise interrupted("upstream_garbage") from None

    def _others(self, type_: str, event: dict[str, Any]) -> Sequence[UpstreamEvent | Ended]:
        if type_ == REFUSAL_DELTA:
            return (TextDelta(self._part(event), text(event["delta"]), PartKind.REFUSAL),)
        if type_ == "response.created":
            return (Started(name(event["response"]["id"])),)
        if type_ in ENDS:
            return (ended(event["response"]),)
        if type_ == "error":
            code, retryable = of_response(event)
            raise failure(code, retryable=retryable, generated=True)
        step = step_of_event(type_, event)
        return () if step is None else (step,)

    def _is_repeated(self, type_: str, event: dict[str, Any]) -> bool:
        """Drop what comes twice or late; the final account makes up for what is dropped."""
        number = event.get("sequence_number")
        if not isinstance(number, int):
            return False
        # Two events of one number, but of different types, are not the same one twice.
        is_late = number < self._last or (number == self._last and type_ == self._last_type)
        if is_late and type_ not in ENDS:
            return True
        self._last = number
        self._last_type = type_
        return False

    def _part(self, event: dict[str, Any]) -> int:
        key = (event.get("output_index"), event.get("content_index"))
        return self._parts.setdefault(key, len(self._parts))


def ended(response: dict[str, Any]) -> Ended:
    """Return how a response that has ended did so."""
    output: list[dict[str, Any]] = response.get("output") or []
    calls = tool_calls(output)
    status = _STATUSES[response["status"]]
    if calls and status is RunStatus.COMPLETED:
        status = RunStatus.REQUIRES_ACTION
    code, retryable = None, False
    if status is RunStatus.FAILED:
        code, retryable = of_response(response.get("error"))
    details: dict[str, Any] = response.get("incomplete_details") or {}
    reason, tail = details.get("reason"), output[-1].get("id") if output else None
    return Ended(
        status=status,
        content=parts(output),
        usage=_usage(response.get("usage")),
        tail=None if tail is None else name(tail),
        tool_calls=calls,
        incomplete_reason=None if reason is None else name(reason),
        error_code=code,
        retryable=retryable,
    )


def parts(items: Sequence[dict[str, Any]]) -> list[Part]:
    """Return the parts of what the assistant said, in order."""
    found: list[Part] = []
    for item in items:
        if item.get("type") != "message" or item.get("role") != "assistant":
            continue
        for content in item["content"]:
            if content["type"] == "output_text":
                notes = tuple(clean_json(note) for note in content.get("annotations") or ())
                found.append(Part(text(content["text"]), PartKind.TEXT, notes))
            elif content["type"] == "refusal":
                found.append(Part(text(content["refusal"]), PartKind.REFUSAL))
    return found


def tool_calls(items: Sequence[dict[str, Any]]) -> list[ToolCall]:
    """Return the functions that the items ask to have called."""
    return [
        ToolCall(name(item["call_id"]), name(item["name"]), name(item["arguments"]))
        for item in items
        if item.get("type") == "function_call"
    ]


def _usage(usage: dict[str, Any] | None) -> Usage | None:
    if not usage:
        return None
    counts = [usage[key] for key in ("input_tokens", "output_tokens", "total_tokens")]
    if not all(isinstance(count, int) for count in counts):
        raise TypeError
    return Usage(*counts)
