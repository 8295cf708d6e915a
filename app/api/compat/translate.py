"""A run's event stream, translated into the wire's while it is sent.

One event of ours is none, one or several of the wire's. Their ids are `seq.index`: a reader that
comes back has the log translated again from the run's start, and is sent what follows its id.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.api.compat import objects, step_objects
from app.domain.events import dump
from app.domain.models import AssistantConfig
from app.domain.steps import FUNCTION

DONE: Final = b"event: done\ndata: [DONE]\n\n"
CUT_OFF: Final = {
    "message": "The stream was cut off; the run goes on: poll it, or go on with its events.",
    "type": "server_error",
    "param": None,
    "code": "stream_cut_off",
}
_ENDS: Final = frozenset({"completed", "failed", "cancelled", "incomplete", "expired"})


def block(name: str, data: Mapping[str, Any], event_id: str | None = None) -> bytes:
    """Write one event."""
    head = "" if event_id is None else f"id: {event_id}\n"
    return f"{head}event: {name}\ndata: {dump(data)}\n\n".encode()


@dataclass(slots=True)
class _Taken:
    """A step that uses tools, as far as it has been told."""

    begun_at: str
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    has_ended: bool = False


class Translator:
    """One reader's translation of one run."""

    def __init__(
        self,
        config: AssistantConfig,
        *,
        after: tuple[int, int] = (0, 0),
        reopens: bool = False,
        prologue: bytes = b"",
    ) -> None:
        self._config = config
        self._after = after
        self._reopens = reopens
        """Whether the reader is another one than that of the events up to `after`: it has to be
        told of a message first that was opened there."""
        self._prologue = prologue
        """What the reader is sent before the run's first event."""
        self._message: dict[str, Any] | None = None
        """The answer's body, once there is one; its content is what was shown so far."""
        self._is_told = True
        """Whether the reader knows of the message."""
        self._run: dict[str, Any] = {}
        self._texts: dict[int, list[str]] = {}
        self._steps: dict[str, _Taken] = {}
        self._place = (0, 0)
        self._out: list[bytes] = []
        self.is_over = False
        """Nothing follows: the wire's stream ends where ours may go on."""

    def feed(self, piece: bytes) -> bytes:
        """Translate whole blocks."""
        self._out = [self._prologue]
        self._prologue = b""
        for found in piece.split(b"\n\n"):
            if not self.is_over:
                self._take(found)
        return b"".join(self._out)

    def cut_off(self) -> bytes:
        """Say that the run goes on without its reader.

        The SDKs raise an error for it: they would take a stream that merely ends for all there is.
        """
        if self.is_over:
            return b""
        return block("error", {"error": CUT_OFF})

    def _take(self, found: bytes) -> None:
        if found.startswith((b":", b"retry:")):
            # No empty line after these: the SDK would take it for an event, and fail to read it.
            self._out.append(found + b"\n")
            return
        fields = dict(line.split(b": ", 1) for line in found.split(b"\n") if line)
        name = fields.get(b"event", b"").decode()
        if name == "done":
            self._end()
        elif name:
            self._place = (int(fields[b"id"]), 0)
            self._event(name, json.loads(fields[b"data"]))

    def _event(self, name: str, data: dict[str, Any]) -> None:
        match name:
            case "message.delta":
                self._delta(data["part"], data["text"])
            case "message.created":
                self._created(data["message"])
            case "message.reset":
                self._reset(data["from_part"])
            case "run.step":
                self._step_changed(data["step"], data["at"])
            case "message.completed":
                self._message = data["message"]
                self._send("thread.message.completed", objects.message(self._answer, self._run))
            case "message.incomplete":
                # Why, the run's end says.
                self._message = data["message"]
            case _ if name.startswith("run.") and "run" in data:
                self._run = data["run"]
                self._run_changed(self._run["status"])
            case _:
                pass

    def _created(self, message: dict[str, Any]) -> None:
        if message["role"] != "assistant":
            return
        self._message = message
        step = step_objects.message_step(self._run, message["id"], message["created_at"])
        self._send("thread.run.step.created", step)
        self._send("thread.run.step.in_progress", step)
        self._open()

    def _open(self) -> None:
        self._is_told = self._is_sending or not self._reopens
        shown = objects.message(self._answer, self._run)
        self._send("thread.message.created", shown)
        self._send("thread.message.in_progress", shown)

    def _tell(self) -> None:
        """Show the message as it is to a reader that was not there when it was opened.

        Without ids: to others these events are none, and the places after them are the same.
        """
        self._is_told = True
        self._message = {**self._answer, "content": self._kept()}
        shown = objects.message(self._answer, self._run)
        self._out += [
            block(f"thread.message.{name}", shown) for name in ("created", "in_progress")
        ]

    def _delta(self, part: int, text: str) -> None:
        if not self._is_told and self._is_sending:
            self._tell()
        value: dict[str, Any] = {"value": text}
        if part not in self._texts:
            value["annotations"] = []
        self._texts.setdefault(part, []).append(text)
        content = [{"index": part, "type": "text", "text": value}]
        self._send(
            "thread.message.delta",
            {
                "id": self._answer["id"],
                "object": "thread.message.delta",
                "delta": {"content": content},
            },
        )

    def _reset(self, from_part: int) -> None:
        """Open the message again: the wire has no word for what is withdrawn.

        Readers take a message that is created for one that holds what it says, so that the
        deltas of the repeated attempt are added to nothing else.
        """
        self._texts = {part: texts for part, texts in self._texts.items() if part < from_part}
        self._message = {**self._answer, "content": self._kept()}
        self._open()

    def _kept(self) -> list[dict[str, Any]]:
        return [
            {"type": "text", "text": "".join(texts), "annotations": []}
            for _, texts in sorted(self._texts.items())
        ]

    def _step_changed(self, step: dict[str, Any], at: str) -> None:
        if step["kind"] not in step_objects.TOOLS:
            return
        taken = self._steps.get(step["id"])
        if taken is None:
            taken = self._steps[step["id"]] = _Taken(at)
            begun = step | {"status": "in_progress"}
            shown = step_objects.tool_step(self._run, begun, at, None)
            shown["step_details"]["tool_calls"] = []
            self._send("thread.run.step.created", shown)
            self._send("thread.run.step.in_progress", shown)
        calls = step_objects.tool_calls(step)
        if step["status"] == "in_progress":
            self._step_grown(step["id"], taken, calls)
            return
        if step["status"] == "withdrawn":
            # The wire has no word for it: what went on ends, and what had ended stays.
            if taken.has_ended:
                return
            step |= {"status": "cancelled"}
        elif not taken.calls or step["kind"] != FUNCTION:
            self._step_grown(step["id"], taken, calls)
        taken.has_ended = True
        ended = step_objects.tool_step(self._run, step, taken.begun_at, at)
        self._send(f"thread.run.step.{step['status']}", ended)

    def _step_grown(self, step_id: str, taken: _Taken, calls: list[dict[str, Any]]) -> None:
        added = step_objects.grown(taken.calls, calls, "tool_calls")
        if added is None:
            return
        taken.calls = calls
        details = {"type": "tool_calls", "tool_calls": added}
        delta = {"step_details": details}
        self._send(
            "thread.run.step.delta",
            {"id": step_id, "object": "thread.run.step.delta", "delta": delta},
        )

    def _run_changed(self, status: str) -> None:
        shown = objects.run(self._run, self._config)
        # Who has read that an action is required comes back for what follows it.
        is_unread = self._is_sending
        if status == "queued" and self._run["started_at"] is None:
            self._send("thread.run.created", shown)
        if status in _ENDS and self._message is not None:
            if self._message["status"] == "incomplete":
                self._send("thread.message.incomplete", objects.message(self._message, self._run))
            step = step_objects.message_step(
                self._run, self._message["id"], self._message["created_at"]
            )
            self._send(f"thread.run.step.{step['status']}", step)
        self._send(f"thread.run.{status}", shown)
        if status == "requires_action" and is_unread:
            self._end()

    @property
    def _is_sending(self) -> bool:
        """Whether the present event is one that the reader has not read."""
        return self._place > self._after

    @property
    def _answer(self) -> dict[str, Any]:
        if self._message is None:
            raise LookupError("an answer's event came before its message")
        return self._message

    def _end(self) -> None:
        self._out.append(DONE)
        self.is_over = True

    def _send(self, name: str, data: Mapping[str, Any]) -> None:
        seq, index = self._place
        self._place = (seq, index + 1)
        if (seq, index) > self._after:
            self._out.append(block(name, data, f"{seq}.{index}"))
