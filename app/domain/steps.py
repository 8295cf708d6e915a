"""What a run did besides speaking: the functions, code and searches of its tutor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from app.domain.models import JsonObject, Part, ToolCall

FUNCTION: Final = "function"


class StepStatus(StrEnum):
    """What became of a step; it is withdrawn when the attempt that it belongs to is repeated."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of a run.

    Its details, by kind:
    - `function`: `calls`, each with `id, name, arguments, output`; one step for all calls of a
      generation. It is completed when each has its output.
    - `code_interpreter`: `input`, and `outputs`: `logs` as the Assistants API has them, and
      that there was an `image`.
    - `file_search`: `queries`, and `results` with `file_id, file_name, score, text`.
    - others: whatever a student may see.
    """

    id: str
    session_id: str
    run_id: str
    kind: str
    status: StepStatus
    details: JsonObject = field(default_factory=dict[str, Any])
    key: str | None = None
    """The upstream's name for it; the same step heard again has the same."""
    response_id: str | None = None
    """The upstream's generation that took it."""
    said: Sequence[Part] = ()
    """With functions: what this generation had said when it asked for them."""
    seq: int = 0
    """Place of its first `run.step` in the session's log; 0 until it has been appended."""
    begun_at: datetime | None = None
    ended_at: datetime | None = None

    def body(self) -> JsonObject:
        """The public shape."""
        return {
            "id": self.id,
            "kind": self.kind,
            "status": self.status,
            "details": public_details(self.kind, self.details),
        }

    @property
    def calls(self) -> list[ToolCall]:
        """The functions that it asks for."""
        return [ToolCall(**call) for call in self.details.get("calls", ())]


def public_details(kind: str, details: Mapping[str, Any]) -> JsonObject:
    """Return what of a step's details any reader of the run may see.

    A search finds passages of the tutor's own files: those are the assistant's, as its
    instructions are.
    """
    if kind == "file_search":
        found = [
            {name: value for name, value in result.items() if name != "text"}
            for result in details.get("results") or ()
        ]
        return {**details, "results": found}
    return dict(details)


def call_details(calls: Sequence[ToolCall]) -> JsonObject:
    """Return the details of a step that asks for functions."""
    return {
        "calls": [
            {
                "id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "output": call.output,
            }
            for call in calls
        ]
    }
