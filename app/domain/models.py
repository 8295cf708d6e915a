"""What the service is about: users, assistants, sessions, messages and runs.

All are immutable values. `body()` is the one public JSON shape of each: the event log, the
polls and the transcript show the same bytes because they all come from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from app.domain.text import rfc3339

JsonObject = dict[str, Any]


class RunStatus(StrEnum):
    """The life of a run, in the words of the Assistants tutorial."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    REQUIRES_ACTION = "requires_action"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    EXPIRED = "expired"

    @property
    def is_end(self) -> bool:
        """An end never changes, and nothing follows it."""
        return self in _ENDS

    @property
    def is_active(self) -> bool:
        """A session holds at most one active run."""
        return self in ACTIVE_STATUSES


_ENDS = frozenset(
    {
        RunStatus.CANCELLED,
        RunStatus.FAILED,
        RunStatus.COMPLETED,
        RunStatus.INCOMPLETE,
        RunStatus.EXPIRED,
    }
)
ACTIVE_STATUSES = frozenset(
    {RunStatus.IN_PROGRESS, RunStatus.REQUIRES_ACTION, RunStatus.CANCELLING}
)


class SessionStatus(StrEnum):
    """An ended session takes no new messages."""

    OPEN = "open"
    ENDED = "ended"


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"


class MessageStatus(StrEnum):
    """A user's message is complete from the start; an assistant's while its run lasts is not."""

    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"


class PartKind(StrEnum):
    """What a part of a message holds."""

    TEXT = "text"
    REFUSAL = "refusal"
    IMAGE = "image"
    FILE = "file"

    @property
    def is_words(self) -> bool:
        """Whether it holds words, not a file."""
        return self in {PartKind.TEXT, PartKind.REFUSAL}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a message's content."""

    text: str = ""
    kind: PartKind = PartKind.TEXT
    annotations: Sequence[JsonObject] = ()
    file_id: str | None = None
    """Of an image or a file, which has no text."""

    def body(self) -> JsonObject:
        """The public shape."""
        if not self.kind.is_words:
            return {"type": self.kind.value, "file_id": self.file_id}
        if self.kind is PartKind.REFUSAL:
            return {"type": "refusal", "text": self.text}
        return {"type": "text", "text": self.text, "annotations": list(self.annotations)}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "Part":
        """Read back what `body()` wrote."""
        return cls(
            body.get("text", ""),
            PartKind(body["type"]),
            tuple(body.get("annotations", ())),
            body.get("file_id"),
        )


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a verified token speaks for."""

    subject: str
    tenant: str | None
    scopes: frozenset[str]
    expires_at: float
    """The token's `exp`, seconds since the epoch; streams end when it passes."""


@dataclass(frozen=True, slots=True)
class User:
    """A principal that has a row of its own here."""

    id: str
    principal: Principal


@dataclass(frozen=True, slots=True)
class AssistantConfig:
    """A tutor's configuration: what a version of an assistant fixes."""

    name: str | None
    description: str | None
    instructions: str | None
    model: str
    tools: Sequence[JsonObject] = ()
    tool_resources: JsonObject = field(default_factory=dict[str, Any])
    temperature: float = 1.0
    top_p: float = 1.0
    response_format: Any = "auto"
    max_output_tokens: int | None = None
    """Of single runs that set it, as the two below; no assistant does."""
    tool_choice: Any = None
    """`none`, `required`, or a function as `{"type": "function", "function": {"name"}}`."""
    parallel_tool_calls: bool | None = None


@dataclass(frozen=True, slots=True)
class Assistant:
    """A tutor, at its present version."""

    id: str
    tenant: str | None
    owner_id: str | None
    """Whose own it is, for nobody else to see; without one it is the tenant's."""
    is_default: bool
    config: AssistantConfig
    metadata: JsonObject
    version: int
    created_at: datetime
    updated_at: datetime

    def body(self, *, with_instructions: bool) -> JsonObject:
        """The public shape; the prompt and the tools are for those who may write them."""
        config = self.config
        private: JsonObject = {}
        if with_instructions:
            private = {
                "instructions": config.instructions,
                "tools": list(config.tools),
                "tool_resources": config.tool_resources,
            }
        return {
            "id": self.id,
            "object": "assistant",
            "name": config.name,
            "description": config.description,
            "model": config.model,
            **private,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "response_format": config.response_format,
            "metadata": self.metadata,
            "version": self.version,
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
        }


@dataclass(frozen=True, slots=True)
class TutoringSession:
    """One user's conversation with a tutor."""

    id: str
    user_id: str
    assistant_id: str
    title: str | None
    status: SessionStatus
    metadata: JsonObject
    active_run_id: str | None
    last_seq: int
    created_at: datetime
    updated_at: datetime

    def body(self) -> JsonObject:
        """The public shape."""
        return {
            "id": self.id,
            "object": "session",
            "assistant_id": self.assistant_id,
            "title": self.title,
            "status": self.status,
            "metadata": self.metadata,
            "active_run_id": self.active_run_id,
            "last_seq": self.last_seq,
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.updated_at),
        }


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    id: str
    session_id: str
    run_id: str | None
    role: Role
    status: MessageStatus
    content: Sequence[Part]
    metadata: JsonObject
    seq: int = 0
    """Place of its `message.created` in the session's log; 0 until it has been appended."""
    turn: int = 0
    """Place in the conversation as the tutor reads it; 0 means its own `seq`."""
    created_at: datetime | None = None
    completed_at: datetime | None = None

    def body(self) -> JsonObject:
        """The public shape."""
        return {
            "id": self.id,
            "object": "message",
            "session_id": self.session_id,
            "run_id": self.run_id,
            "role": self.role,
            "status": self.status,
            "content": [part.body() for part in self.content],
            "metadata": self.metadata,
            "seq": self.seq,
            "created_at": _instant(self.created_at),
            "completed_at": _instant(self.completed_at),
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the upstream counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0

    def body(self) -> JsonObject:
        """The public shape."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
        }

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.total_tokens + other.total_tokens,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run ended badly: a stable code, and words that a frontend can show."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the tutor wants called."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""
    output: str | None = None
    """What it returned, once it did."""

    def body(self) -> JsonObject:
        """The public shape."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of the assistant over the session."""

    id: str
    session_id: str
    assistant_id: str
    assistant_version: int
    model: str
    status: RunStatus
    attempts: int
    input_message_id: str | None
    output_message_id: str | None
    metadata: JsonObject
    tool_calls: Sequence[ToolCall] = ()
    last_error: Failure | None = None
    incomplete_reason: str | None = None
    usage: Usage | None = None
    seq: int = 0
    """Place of its `run.queued` in the session's log; 0 until it has been appended."""
    turn: int = 0
    """Place in the conversation of the question that it answers; 0 means its own `seq`."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    expires_at: datetime | None = None
    ended_at: datetime | None = None

    def body(self) -> JsonObject:
        """The public shape."""
        required_action = None
        if self.status is RunStatus.REQUIRES_ACTION:
            required_action = {
                "type": "submit_tool_outputs",
                "tool_calls": [call.body() for call in self.tool_calls],
            }
        error = self.last_error
        reason = self.incomplete_reason
        return {
            "id": self.id,
            "object": "run",
            "session_id": self.session_id,
            "assistant_id": self.assistant_id,
            "model": self.model,
            "status": self.status,
            "attempts": self.attempts,
            "input_message_id": self.input_message_id,
            "output_message_id": self.output_message_id,
            "required_action": required_action,
            "last_error": error and {"code": error.code, "message": error.message},
            "incomplete_details": reason and {"reason": reason},
            "usage": self.usage and self.usage.body(),
            "metadata": self.metadata,
            "seq": self.seq,
            "created_at": _instant(self.created_at),
            "started_at": _instant(self.started_at),
            "expires_at": _instant(self.expires_at),
            "ended_at": _instant(self.ended_at),
        }


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else rfc3339(instant)
