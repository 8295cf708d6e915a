"""Run steps as the wire has them: the one that writes the message, and those that call tools."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.api.compat.objects import RATE_LIMITED, seconds, usage_of
from app.domain.models import JsonObject

_STATUSES: Final = {
    "completed": "completed",
    "incomplete": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
_ENDED_AT: Final = {
    "completed": "completed_at",
    "failed": "failed_at",
    "cancelled": "cancelled_at",
    "expired": "expired_at",
}
TOOLS: Final = frozenset({"function", "code_interpreter", "file_search"})
"""Kinds of steps that the wire has a form for."""
_NUMBERED: Final = frozenset({"tool_calls", "outputs"})
"""Lists whose items the wire's deltas number."""


def step_id(run_id: str) -> str:
    """Return the id of the step in which a run writes its answer."""
    return f"step_{run_id.partition('_')[2]}"


def message_step(run: Mapping[str, Any], message_id: str, begun_at: str | None) -> JsonObject:
    """The step in which a run writes its message, from the run's body."""
    status = _STATUSES.get(run["status"], "in_progress")
    error = run["last_error"]
    found = _step(
        run, step_id(run["id"]), status, begun_at or run["started_at"] or run["created_at"]
    )
    found["step_details"] = {
        "type": "message_creation",
        "message_creation": {"message_id": message_id},
    }
    if error is not None and status == "failed":
        code = "rate_limit_exceeded" if error["code"] in RATE_LIMITED else "server_error"
        found["last_error"] = {"code": code, "message": error["message"]}
    if status in _ENDED_AT:
        found[_ENDED_AT[status]] = seconds(run["ended_at"])
        found["usage"] = usage_of(run["usage"])
    return found


def tool_step(
    run: Mapping[str, Any], step: Mapping[str, Any], begun_at: str | None, ended_at: str | None
) -> JsonObject:
    """A step that calls tools, from its public body."""
    found = _step(run, step["id"], step["status"], begun_at)
    found["type"] = "tool_calls"
    found["step_details"] = {"type": "tool_calls", "tool_calls": tool_calls(step)}
    if step["status"] in _ENDED_AT:
        found[_ENDED_AT[step["status"]]] = seconds(ended_at)
    return found


def _step(run: Mapping[str, Any], identity: str, status: str, begun_at: str | None) -> JsonObject:
    return {
        "id": identity,
        "object": "thread.run.step",
        "created_at": seconds(begun_at),
        "run_id": run["id"],
        "assistant_id": run["assistant_id"],
        "thread_id": run["session_id"],
        "type": "message_creation",
        "status": status,
        "cancelled_at": None,
        "completed_at": None,
        "expired_at": None,
        "failed_at": None,
        "last_error": None,
        "step_details": {},
        "metadata": {},
        "usage": None,
    }


def tool_calls(step: Mapping[str, Any]) -> list[JsonObject]:
    """Return the calls of a step, from its public body."""
    kind, details = step["kind"], step["details"]
    if kind == "function":
        # The outputs come with the end, not by deltas: readers take what comes to an earlier
        # call's number for another call.
        is_going = step["status"] == "in_progress"
        return [_function(call, is_going=is_going) for call in details.get("calls", ())]
    call: JsonObject = {"id": f"call_{step['id'].partition('_')[2]}", "type": kind}
    if kind == "code_interpreter":
        outputs: Sequence[Mapping[str, Any]] = details.get("outputs") or ()
        wanted: JsonObject = {
            "input": details.get("input") or "",
            # A picture has a file's id there, which it has not here.
            "outputs": [dict(each) for each in outputs if each.get("type") == "logs"],
        }
        return [call | {kind: wanted}]
    results: Sequence[Mapping[str, Any]] = details.get("results") or ()
    found = [
        {
            "file_id": result.get("file_id") or "",
            "file_name": result.get("file_name") or "",
            "score": result.get("score") or 0,
        }
        for result in results
    ]
    return [call | {kind: {"ranking_options": None, "results": found}}]


def _function(call: Mapping[str, Any], *, is_going: bool) -> JsonObject:
    kept = {name: call[name] for name in ("name", "arguments", "output")}
    if is_going:
        kept["output"] = None
    return {"id": call["id"], "type": "function", "function": kept}


def grown(known: Any, found: Any, name: str = "") -> Any:
    """Return what a delta adds to what is known; None where that is nothing.

    Readers put deltas together: texts are appended, items of numbered lists joined by number.
    """
    if found is None or found == known:
        return None
    if isinstance(found, str):
        return found[len(known or "") :] if found.startswith(known or "") else None
    if isinstance(found, Mapping):
        members: Mapping[str, Any] = found  # pyright: ignore[reportUnknownVariableType]
        before: Mapping[str, Any] = known or {}
        added = {key: grown(before.get(key), value, key) for key, value in members.items()}
        return {key: value for key, value in added.items() if value is not None} or None
    if name in _NUMBERED:
        items: Sequence[Any] = found
        return _numbered(known or [], items)
    return found


def _numbered(known: Sequence[Any], found: Sequence[Any]) -> list[JsonObject] | None:
    added: list[JsonObject] = []
    for index, item in enumerate(found):
        more = grown(known[index] if index < len(known) else None, item)
        if more is not None:
            added.append({"index": index, "type": item["type"], **more})
    return added or None
