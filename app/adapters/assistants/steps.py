"""Steps of a run that are no messages: what the tutor did besides speaking."""

from collections.abc import Iterator
from typing import Any, Final

from app.adapters.wire.values import name
from app.domain.models import ToolCall
from app.domain.steps import FUNCTION, StepStatus, call_details
from app.domain.text import clean_json
from app.ports import Step

_STATUSES: Final = {"completed": StepStatus.COMPLETED, "failed": StepStatus.FAILED}
"""Ends that are told here; others come with the run's own."""


class StepReader:
    """Tells each call of a tool as it begins and as it ends, however often its step is told."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, int], str] = {}
        self._told: dict[str, StepStatus] = {}

    def read(self, status: str, step: dict[str, Any]) -> Iterator[Step]:
        """Yield what a step, or a delta of one, tells that is new."""
        changed: dict[str, Any] = step.get("delta") or step
        details: dict[str, Any] = changed.get("step_details") or {}
        told = _STATUSES.get(status, StepStatus.IN_PROGRESS)
        for index, call in enumerate(details.get("tool_calls") or ()):
            place = (name(step["id"]), int(call.get("index", index)))
            # A delta names its call only at first; what has no name has its place.
            key = self._names.setdefault(place, name(call.get("id") or f"{place[0]}.{place[1]}"))
            kind = name(call["type"])
            # Functions are over when they are answered, which is not for the upstream to tell.
            if self._told.get(key) is told or (kind == FUNCTION and told in _STATUSES.values()):
                continue
            self._told[key] = told
            yield Step(key, kind, told, clean_json(_details(key, kind, call)))


def _details(key: str, kind: str, call: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a call, in the form that `RunStep` documents."""
    about: dict[str, Any] = call.get(kind) or {}
    match kind:
        case "function":
            return call_details([ToolCall(key, about["name"], about.get("arguments") or "")])
        case "code_interpreter":
            return {key: about[key] for key in ("input", "outputs") if about.get(key)}
        case "file_search":
            results: list[dict[str, Any]] = about.get("results") or []
            return {"results": [_result(found) for found in results]} if results else {}
        case _:
            return {}


def _result(found: dict[str, Any]) -> dict[str, Any]:
    texts = [part.get("text") or "" for part in found.get("content") or ()]
    kept = {key: found.get(key) for key in ("file_id", "file_name", "score")}
    return {**kept, "text": "\n".join(texts)}
