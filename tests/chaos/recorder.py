"""What clients saw, as they saw it: operations, streams and looks, with the time of each.

Nothing is judged here. A history is data: the checker reads it when all is over.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

DONE = range(200, 300)
REFUSED = range(400, 500)


class Outcome(StrEnum):
    """What a client knows of its own request."""

    OK = "ok"
    FAILED = "failed"
    """Definitely refused: nothing of it may be stored."""
    UNKNOWN = "unknown"
    """No answer came, or one that leaves it open: it may have been done, but once."""


@dataclass
class Try:
    """One request of an operation; without a status its connection died."""

    invoked: float
    returned: float
    status: int | None = None
    body: Any = None

    @property
    def code(self) -> str | None:
        """The problem's code."""
        return self.body.get("code") if isinstance(self.body, dict) else None

    @property
    def is_open(self) -> bool:
        """Whether it may have been done, or may be done yet, for all that its client knows."""
        if self.status is None or self.status not in {*REFUSED, *DONE}:
            return True
        return self.code == "request_in_flight"


@dataclass
class Operation:
    """Something that a client wants done."""

    kind: str
    """`open`, `post`, `store` (a message without a run), `again`, `cancel` or `delete`."""
    user: str
    session: str | None
    word: str
    """Stands in the message's text, or in the metadata, and nowhere else."""
    key: str | None = None
    """Its `Idempotency-Key`; without one it is sent once."""
    says: str | None = None
    """What an answer that is complete has to say."""
    run: str | None = None
    """The run that is to be cancelled."""
    tries: list[Try] = field(default_factory=list[Try])

    @property
    def outcome(self) -> Outcome:
        """What its client knows in the end."""
        if any(each.status in DONE for each in self.tries):
            return Outcome.OK
        if self.kind == "delete" and self._is_gone_after_all():
            return Outcome.OK
        if not self.tries or any(each.is_open for each in self.tries):
            return Outcome.UNKNOWN
        return Outcome.FAILED

    def _is_gone_after_all(self) -> bool:
        statuses = [each.status for each in self.tries]
        return 404 in statuses and any(each.is_open for each in self.tries)

    @property
    def answers(self) -> list[Any]:
        """The bodies of what it was answered; a stream's first answer has none."""
        return [t.body for t in self.tries if t.status in DONE and t.body is not None]

    @property
    def invoked(self) -> float:
        """When it was first sent."""
        return self.tries[0].invoked if self.tries else 0.0

    @property
    def done(self) -> float:
        """When its client knew that it was done."""
        known = [each.returned for each in self.tries if not each.is_open]
        return known[0] if known else float("inf")


@dataclass
class Seen:
    """One block, and when it came."""

    id: str | None
    event: str
    data: str
    at: float


@dataclass
class Reading:
    """One connection to an event stream."""

    user: str
    api: int
    session: str
    run: str | None
    after: int | None
    """The cursor that was sent; None: from now (a session), or from the start (a run)."""
    opened: float
    status: int | None = None
    answered: float = float("inf")
    blocks: list[Seen] = field(default_factory=list[Seen])
    end: str = "open"
    """`done` after that block, `closed` by the server, `cut` by anybody else."""


@dataclass
class Look:
    """One GET."""

    kind: str
    """`run`, `transcript`, `message` or `session`."""
    user: str
    session: str
    item: str | None
    invoked: float
    returned: float
    status: int | None = None
    body: Any = None


@dataclass
class History:
    """All that the clients of one run of chaos saw."""

    operations: list[Operation] = field(default_factory=list[Operation])
    readings: list[Reading] = field(default_factory=list[Reading])
    looks: list[Look] = field(default_factory=list[Look])
    stuck: list[str] = field(default_factory=list[str])
    """Readers that were owed something and did not get it in time."""

    def begin(self, operation: Operation) -> Operation:
        """Keep an operation from before it is sent."""
        self.operations.append(operation)
        return operation

    def read(self, reading: Reading) -> Reading:
        """Keep a reading from before its first byte."""
        self.readings.append(reading)
        return reading

    def look(self, look: Look) -> Look:
        """Keep a look."""
        self.looks.append(look)
        return look

    def write(self, path: Path) -> None:
        """Keep it for whoever has to find out what happened."""
        path.write_text(json.dumps(asdict(self)))


def now() -> float:
    """Return the one clock of all clients: they live in one process."""
    return time.monotonic()
