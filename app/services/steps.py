"""The steps that a run takes besides its answer: begun, told further, ended, withdrawn.

A round is what lies between two answers to the tutor's calls of functions. What a round did is
withdrawn when it is repeated; earlier rounds stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain import ids
from app.domain.events import Draft, StepChanged
from app.domain.models import JsonObject, Part, Run, RunStatus, ToolCall
from app.domain.steps import FUNCTION, RunStep, StepStatus, call_details
from app.ports import Step
from app.services.publisher import RunLog

_ENDS = {
    RunStatus.COMPLETED: StepStatus.COMPLETED,
    RunStatus.INCOMPLETE: StepStatus.FAILED,
    RunStatus.FAILED: StepStatus.FAILED,
    RunStatus.CANCELLED: StepStatus.CANCELLED,
    RunStatus.EXPIRED: StepStatus.EXPIRED,
}


@dataclass(slots=True)
class _Taken:
    """A step as it is now, and the draft that gave it its place, if this process drafted it."""

    step: RunStep
    opened: StepChanged | None = None


class Steps:
    """The steps of one run that this worker holds."""

    def __init__(self, log: RunLog, run: Run, known: Sequence[RunStep]) -> None:
        self._log = log
        self._run = run
        self._taken = [_Taken(step) for step in known]
        """In order."""

    @property
    def rounds(self) -> list[RunStep]:
        """The calls of functions that have been answered."""
        return [
            taken.step
            for taken in self._taken
            if taken.step.kind == FUNCTION and taken.step.status is StepStatus.COMPLETED
        ]

    @property
    def _present(self) -> list[_Taken]:
        """Those of the present round."""
        start = 0
        for place, taken in enumerate(self._taken, 1):
            if taken.step.kind == FUNCTION and taken.step.status is StepStatus.COMPLETED:
                start = place
        return self._taken[start:]

    def hear(self, heard: Step, response_id: str | None) -> None:
        """Take note of what the upstream tells; what is known already changes nothing."""
        found = self._find(heard.kind, heard.key)
        if found is None:
            self._add(heard, response_id)
            return
        step = found.step
        if step.status is not StepStatus.IN_PROGRESS:
            return
        details = {**step.details, **heard.details}
        if step.kind == FUNCTION:
            details = _joined(step.details, heard.details)
        changed = replace(step, status=heard.status, details=details)
        if changed != step:
            self._change(found, changed)

    def asked(
        self, calls: Sequence[ToolCall], said: Sequence[Part], response_id: str | None
    ) -> None:
        """Take note of all calls that a generation ended with, as far as they are answered."""
        found = self._find(FUNCTION, "")
        details = call_details(calls)
        if found is None:
            heard = Step(calls[0].id, FUNCTION, StepStatus.IN_PROGRESS, details)
            found = self._add(heard, response_id, said)
        is_whole = all(call.output is not None for call in calls)
        changed = replace(
            found.step,
            status=StepStatus.COMPLETED if is_whole else StepStatus.IN_PROGRESS,
            details=details,
            said=tuple(said),
            response_id=response_id,
        )
        if changed != found.step:
            self._change(found, changed)

    def withdraw(self) -> None:
        """Take back what the present round did: it is repeated."""
        for taken in self._present:
            self._change(taken, replace(taken.step, status=StepStatus.WITHDRAWN))
            self._taken.remove(taken)

    def end(self, status: RunStatus) -> list[Draft]:
        """Return what ends the steps that still go on when the run ends."""
        drafts: list[Draft] = []
        for taken in self._taken:
            if taken.step.status is StepStatus.IN_PROGRESS:
                ended = replace(taken.step, status=_ENDS[status])
                drafts.append(StepChanged(ended, opened=taken.opened))
        return drafts

    def _find(self, kind: str, key: str) -> _Taken | None:
        for taken in self._present:
            if taken.step.kind == kind and (kind == FUNCTION or taken.step.key == key):
                return taken
        return None

    def _add(self, heard: Step, response_id: str | None, said: Sequence[Part] = ()) -> _Taken:
        step = RunStep(
            id=ids.new_id(ids.STEP),
            session_id=self._run.session_id,
            run_id=self._run.id,
            kind=heard.kind,
            status=heard.status,
            details=heard.details,
            key=heard.key,
            response_id=response_id,
            said=tuple(said),
        )
        opened = StepChanged(step, is_new=True)
        taken = _Taken(step, opened)
        self._taken.append(taken)
        self._log.append(opened)
        return taken

    def _change(self, taken: _Taken, changed: RunStep) -> None:
        taken.step = changed
        self._log.append(StepChanged(changed, opened=taken.opened))


def ended(step: RunStep, status: RunStatus) -> StepChanged:
    """Return what ends a step of a run that no worker holds."""
    return StepChanged(replace(step, status=_ENDS[status]))


def _joined(known: JsonObject, heard: JsonObject) -> JsonObject:
    """Put calls together by their ids: they are told one by one, first without arguments."""
    calls = {call["id"]: call for call in known.get("calls", ())}
    for call in heard.get("calls", ()):
        before = calls.get(call["id"], {})
        arguments = call["arguments"] or before.get("arguments", "")
        calls[call["id"]] = {**call, **before, "arguments": arguments}
    return {"calls": list(calls.values())}
