"""A server that generates answers, and who may ask it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from app.domain.models import (
    AssistantConfig,
    JsonObject,
    Part,
    PartKind,
    Principal,
    Role,
    RunStatus,
    ToolCall,
    Usage,
)
from app.domain.steps import StepStatus
from app.ports.files import Attached
from app.ports.queue import Thread
from app.ports.stores import NO_RESOURCES, Resources


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said, as the upstream is told it."""

    role: Role
    parts: Sequence[str | Attached]
    """Texts, and files as the upstream knows them."""

    @property
    def texts(self) -> Sequence[str]:
        """The texts alone."""
        return [part for part in self.parts if isinstance(part, str)]


@dataclass(frozen=True, slots=True)
class Calls:
    """Functions that the tutor called, each with its output: a place in the conversation."""

    calls: Sequence[ToolCall]


@dataclass(frozen=True, slots=True)
class Generation:
    """What a run asks the upstream for."""

    thread_id: str | None
    """None where the upstream keeps no threads: `turns` then hold the whole conversation."""
    turns: Sequence[Turn | Calls]
    model: str
    config: AssistantConfig
    safety_id: str
    outputs: Sequence[ToolCall] = ()
    """Calls that the thread ends with: of these it lacks nothing but the outputs."""
    asked_by: str | None = None
    """With outputs: the upstream's name for the generation that asked for them."""
    tail: str | None = None
    """Where the thread ends, as `Ended.tail` or `Thread.tail` told."""
    resources: Resources = NO_RESOURCES
    """What its tools work on."""


@dataclass(frozen=True, slots=True)
class Started:
    """The upstream accepted; this is its name for the generation."""

    response_id: str


class TextDelta(NamedTuple):
    """More text of a part."""

    part: int
    text: str
    kind: PartKind = PartKind.TEXT


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was heard of the answer is void: it comes again, from its beginning."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the tutor is doing meanwhile, told when it begins, may be further on, and ends.

    Calls of functions are told one by one or together, always as `in_progress`: those of one
    generation become one step, which is completed when all of them have been answered.
    """

    key: str
    """The upstream's name for it: told again, or further on, it is the same step."""
    kind: str
    status: StepStatus
    details: JsonObject = field(default_factory=dict[str, Any])
    """What is known of it by now, as `RunStep` documents."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The upstream's own account of how the generation ended."""

    status: RunStatus
    """`completed`, `incomplete`, `failed`, `cancelled`, `expired`, or `requires_action`."""
    content: Sequence[Part]
    usage: Usage | None
    tail: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    incomplete_reason: str | None = None
    error_code: str | None = None
    retryable: bool = False


UpstreamEvent = Started | TextDelta | Restarted | Step


class Upstream(Protocol):
    """A server that generates answers, and may keep threads."""

    @property
    def is_background(self) -> bool:
        """Whether a generation goes on when its listener is gone, and can be followed again."""
        ...

    async def open_thread(self, turns: Sequence[Turn]) -> Thread | None:
        """Open a thread that holds `turns`; None where the upstream keeps no threads.

        Raises:
            UpstreamError: It could not be opened, or filled.
        """
        ...

    async def generate(
        self, generation: Generation, listen: Callable[[UpstreamEvent], None]
    ) -> Ended:
        """Ask for one answer; `listen` hears of it as it comes.

        Cancelling this closes the connection, which ends all but background generations. Every
        token passes here, so that it is a call, not an asynchronous iterator.

        Raises:
            UpstreamInterruptedError: The stream stopped before its end.
            ThreadBusyError: Another request holds the thread; nothing was generated.
            ThreadLostError: There is no such thread; nothing was generated.
            UpstreamError: Anything else, with a stable code.
        """
        ...

    async def outcome(
        self,
        *,
        response_id: str | None,
        thread_id: str | None,
        tail: str | None,
        listen: Callable[[UpstreamEvent], None],
    ) -> Ended | None:
        """Ask what became of a generation whose end was not seen; None if it came to nothing.

        One that goes on is waited for; of a background one `listen` hears as it comes, from its
        beginning. Nothing is generated anew.

        Raises:
            UpstreamError: The upstream does not say, for now.
            ThreadLostError: The thread is gone, or holds a half-written turn.
        """
        ...

    async def cancel(self, response_id: str) -> Ended | None:
        """Stop a background generation; return how it ended, which may be `completed`.

        None if the upstream knows nothing of it, or nothing that has ended.

        Raises:
            UpstreamError: The upstream does not say, for now.
        """
        ...

    async def delete_thread(self, thread_id: str) -> None:
        """Delete it and what it holds; one that is gone already is fine."""
        ...

    async def tidy(self) -> None:
        """Delete what stands upstream for configurations that no run has used for long.

        Raises:
            UpstreamError: Not all of it can be deleted, for now.
        """
        ...

    async def delete_response(self, response_id: str) -> None:
        """Delete a generation's own record; one that is gone already is fine."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class Tutors(Protocol):
    """What stands upstream for configurations, where the upstream keeps such: one book for all.

    A configuration is known by a digest of what the upstream is told of it.
    """

    async def find(self, digest: str) -> str | None:
        """Return the upstream's id for a configuration, if it has one; note that it is used."""
        ...

    async def add(self, digest: str, tutor_id: str) -> str:
        """Record a new one; return the one to use: another worker's may have been first."""
        ...

    async def unused(self, limit: int) -> Sequence[str]:
        """Return those that are not needed upstream any more; they are not found again."""
        ...

    async def remove(self, tutor_id: str) -> None:
        """Record that the upstream has it no more."""
        ...


class TokenVerifier(Protocol):
    """Who signs the users' tokens."""

    async def verify(self, token: str) -> Principal:
        """Return whom the token speaks for.

        Raises:
            UnauthenticatedError: It is not to be trusted.
            AuthUnavailableError: The keys can't be had for now.
        """
        ...
