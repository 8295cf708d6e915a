"""A conversation that was held elsewhere: what a source tells of it, in our words.

Ids are the source's; instants are those of long ago. Nothing here has a place in a log yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.domain.models import JsonObject, MessageStatus, Part, Role, RunStatus, Usage


@dataclass(frozen=True, slots=True)
class PastMessage:
    """One message; an answer may have been told in several."""

    id: str
    role: Role
    run_id: str | None
    """The run that wrote it; None for what was said without one."""
    status: MessageStatus
    content: Sequence[Part]
    metadata: JsonObject
    created_at: datetime
    completed_at: datetime
    assistant_id: str | None = None
    """The source's."""
    incomplete_reason: str | None = None


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run, ended: what was unfinished at its source will never be finished there."""

    id: str
    status: RunStatus
    metadata: JsonObject
    created_at: datetime
    assistant_id: str | None = None
    """The source's."""
    model: str | None = None
    error_code: str | None = None
    incomplete_reason: str | None = None
    usage: Usage | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PastThread:
    """A whole conversation, its messages and its runs each in their order."""

    id: str
    owner: str | None
    """The subject that the thread itself names; None where the caller says whose it is."""
    metadata: JsonObject
    created_at: datetime | None
    messages: Sequence[PastMessage]
    runs: Sequence[PastRun]
    digest: bytes
    """Of what it holds: another one means that the source has changed."""

    def assistants(self) -> list[str]:
        """Return who answered, by the source's ids, the newest last; runs know it best."""
        told = [message.assistant_id for message in self.messages]
        told += [run.assistant_id for run in self.runs]
        return [found for found in told if found is not None]


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that was not taken, or not as it was. It names ids, and quotes nothing."""

    reason: str
    line: int | None = None
    """Of the file, from 1."""
    thread: str | None = None
    item: str | None = None
    """The id of the message or run."""
