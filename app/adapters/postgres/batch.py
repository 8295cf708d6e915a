"""What one statement writes to many logs: drafts stamped, and the rows that they change."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from app.adapters.postgres.rows import message_values, run_values, step_values
from app.domain.events import (
    Delta,
    Draft,
    Event,
    MessageChanged,
    RunChanged,
    StepChanged,
)
from app.domain.models import Role, Run
from app.domain.steps import RunStep, StepStatus
from app.ports import Append


class Place:
    """Where a session's log stands, moved on as drafts are stamped."""

    def __init__(
        self, session_id: str, last_seq: int, at: datetime, run_id: str | None, fence: int | None
    ) -> None:
        self.session_id = session_id
        self.last_seq = last_seq
        self.at = at
        self.run_id = run_id
        self.fence = fence
        self.is_moved = False
        self._was: dict[str, Any] = {
            "id": session_id,
            "was_seq": last_seq,
            "run_id": run_id,
            "fence": fence,
            "at": at.isoformat(),
        }
        self._changes: dict[str, Any] = {}
        self._ended: list[str] = []

    def admits(self, append: Append) -> bool:
        """Tell whether the append's writer still holds the session."""
        if append.fence is None:
            return True
        return self.fence == append.fence and self.run_id == append.run_id

    def take(self, append: Append) -> None:
        """Take what an append changes besides its events."""
        self.is_moved = True
        if append.new_fence is not None:
            self.fence = self._changes["new_fence"] = append.new_fence
        if append.thread is not None:
            self._changes |= {
                "is_marked": True,
                "upstream_thread_id": append.thread.thread_id,
                "upstream_turn": append.thread.turn,
                "upstream_tail": append.thread.tail,
            }

    def take_run(self, run: Run) -> None:
        """Let a run become the session's active one, or be it no longer."""
        if run.status.is_active:
            self.run_id = self._changes["active_run_id"] = run.id
        elif run.status.is_end:
            self._ended.append(run.id)
            if self.run_id == run.id:
                self.run_id = None
                self._changes.pop("active_run_id", None)

    def values(self) -> dict[str, Any]:
        """Return what the session's row must be, and what it becomes."""
        return self._was | {"last_seq": self.last_seq, "ended": self._ended} | self._changes


class Batch:
    """Everything that one transaction writes."""

    def __init__(self, places: dict[str, Place]) -> None:
        self._places = places
        self._events: list[Event] = []
        self._new_messages: dict[str, dict[str, Any]] = {}
        self._new_runs: dict[str, dict[str, Any]] = {}
        self._messages: dict[str, dict[str, Any]] = {}
        self._runs: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        self._no_steps: list[str] = []
        """Those that are withdrawn."""
        self._notes: dict[str, dict[str, Any]] = {}
        """The answer's and the generation's id, by run."""
        self._responses: list[dict[str, str]] = []

    def take(self, append: Append) -> bool:
        """Stamp an append's drafts, and note what they change; False if its fence refuses it."""
        place = self._places.get(append.session_id)
        if place is None or not place.admits(append):
            return False
        place.take(append)
        append.stamped.clear()
        if append.response_id is not None and append.run_id is not None:
            self._note(append.session_id, append.run_id, response_id=append.response_id)
            kept = {"session_id": append.session_id, "response_id": append.response_id}
            self._responses.append(kept)
        for draft in append.drafts:
            place.last_seq += 1
            self._events.append(_stamp(append, draft, place.last_seq, place.at))
            if isinstance(draft, MessageChanged):
                self._take_message(draft)
            elif isinstance(draft, RunChanged):
                self._take_run(draft, place)
            elif isinstance(draft, StepChanged):
                self._take_step(draft.step)
        return True

    def _note(self, session_id: str, run_id: str, **ids: str) -> None:
        known = {"session_id": session_id, "run_id": run_id}
        self._notes.setdefault(run_id, known).update(ids)

    def _take_message(self, draft: MessageChanged) -> None:
        message = draft.message
        # A row that this very statement inserts is none that it could update.
        is_new = draft.is_new or message.id in self._new_messages
        (self._new_messages if is_new else self._messages)[message.id] = message_values(message)
        if draft.is_new and message.role is Role.ASSISTANT and message.run_id is not None:
            self._note(message.session_id, message.run_id, message_id=message.id)

    def _take_run(self, draft: RunChanged, place: Place) -> None:
        run = draft.run
        place.take_run(run)
        is_new = draft.is_new or run.id in self._new_runs
        (self._new_runs if is_new else self._runs)[run.id] = run_values(run)

    def _take_step(self, step: RunStep) -> None:
        if step.status is StepStatus.WITHDRAWN:
            self._steps.pop(step.id, None)
            self._no_steps.append(step.id)
        else:
            self._steps[step.id] = step_values(step)

    def session_ids(self) -> list[str]:
        """Return whose rows are written."""
        return [place.session_id for place in self._places.values() if place.is_moved]

    def document(self) -> str:
        """Return all of it as one JSON document, one member for each table.

        No parameter for each column, and one round trip: each stands between a question and its
        first word.
        """
        # A row is updated once in a statement, or one of the updates is lost.
        for run_id in self._notes.keys() & self._runs.keys():
            note = self._notes.pop(run_id)
            self._runs[run_id]["upstream_response_id"] = note.get("response_id")
        document = to_json(
            {
                "places": [place.values() for place in self._places.values() if place.is_moved],
                "events": [
                    {
                        "session_id": event.session_id,
                        "seq": event.seq,
                        "type": event.type,
                        "run_id": event.run_id,
                        "data": event.data,
                    }
                    for event in self._events
                ],
                "new_runs": list(self._new_runs.values()),
                "new_messages": list(self._new_messages.values()),
                "runs": list(self._runs.values()),
                "messages": list(self._messages.values()),
                "notes": list(self._notes.values()),
                "steps": list(self._steps.values()),
                "no_steps": self._no_steps,
                "responses": self._responses,
            }
        )
        return document.decode()


def is_plain(appends: Sequence[Append]) -> bool:
    """Tell whether they are what nearly all are: one delta each for many runs."""
    return len({append.session_id for append in appends}) == len(appends) and all(
        len(append.drafts) == 1
        and isinstance(append.drafts[0], Delta)
        and append.fence is not None
        and append.new_fence is None
        and append.response_id is None
        and append.thread is None
        for append in appends
    )


def stamp_delta(append: Append, at: datetime) -> str:
    """Stamp the only draft of a plain append; return its data."""
    append.stamped.clear()
    return _stamp(append, append.drafts[0], (append.last_seq or 0) + 1, at).data


def _stamp(append: Append, draft: Draft, seq: int, at: datetime) -> Event:
    data = draft.stamp(append.session_id, seq, at)
    event = Event(append.session_id, seq, draft.type, draft.run_id, data)
    append.stamped.append(event)
    return event
