"""Where a thread ends, as it is stored between two requests to it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.adapters.wire.values import name


@dataclass(frozen=True, slots=True)
class Tail:
    """The thread's last run and message; what comes after them belongs to the next request.

    A run that waits for functions is its own next request: what it said before is known by the
    parts that its last message had then, and its calls by their digest.
    """

    run_id: str = ""
    message_id: str = ""
    parts: int = 0
    calls: str = ""

    def __str__(self) -> str:
        place = f"{self.run_id}/{self.message_id}"
        return f"{place}/{self.parts}/{self.calls}" if self.calls else place

    @classmethod
    def read(cls, written: str | None) -> "Tail":
        """Read what was stored; of what another dialect wrote, nothing is known."""
        match (written or "").split("/"):
            case [run_id, message_id]:
                return cls(run_id, message_id)
            case [run_id, message_id, parts, calls] if calls and parts.isdecimal():
                return cls(run_id, message_id, int(parts), calls)
            case _:
                return cls()

    @property
    def is_open(self) -> bool:
        """Whether the run goes on from here once its functions are answered."""
        return bool(self.calls)

    def fresh(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what a run's messages, oldest first, say after this tail."""
        for place, message in enumerate(messages):
            if self.is_open and message["id"] == self.message_id:
                rest = list(message.get("content") or ())[self.parts :]
                return [{**message, "content": rest}, *messages[place + 1 :]]
        return list(messages)


def calls_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the functions that a run waits for."""
    calls: list[dict[str, Any]] = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    return calls


def digest_of(run: dict[str, Any]) -> str:
    """Return what tells a run's calls from those of other rounds; empty if it waits for none."""
    if run["status"] != "requires_action":
        return ""
    names = sorted(name(call["id"]) for call in calls_of(run))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class RunName:
    """What a generation is found by: its run, and where this round of it begins."""

    thread_id: str
    run_id: str
    tail: Tail

    def __str__(self) -> str:
        if not self.tail.is_open:
            return f"{self.thread_id}/{self.run_id}"
        return f"{self.thread_id}/{replace(self.tail, run_id=self.run_id)}"

    @property
    def path(self) -> str:
        """Where the run is."""
        return f"/threads/{self.thread_id}/runs/{self.run_id}"

    @classmethod
    def read(cls, written: str | None) -> "RunName | None":
        """Read what was stored; what another dialect named is unknown here."""
        thread_id, slash, rest = (written or "").partition("/")
        return cls(thread_id, rest.partition("/")[0], Tail.read(rest)) if slash else None
