"""What is kept of users, tutors and conversations."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, Protocol, TypeVar

from app.domain.models import (
    Assistant,
    AssistantConfig,
    JsonObject,
    Message,
    Principal,
    Run,
    SessionStatus,
    TutoringSession,
    User,
)
from app.domain.steps import RunStep

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which items of a list are asked for; `after` and `before` are ids of items."""

    limit: int = 20
    descending: bool = True
    after: str | None = None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """Some items of a list, in the order asked for."""

    items: Sequence[T_co]
    has_more: bool


VersionKey = tuple[str, int]
"""An assistant's id, and a version of it."""

AssistantLock = Literal["update", "use"]
"""To change it, or to keep it from being deleted under a new run."""


@dataclass(frozen=True, slots=True)
class AssistantVersion:
    """What an assistant was for the runs that used this version, and whose it is."""

    config: AssistantConfig
    owner_id: str | None


class Users(Protocol):
    """Who has been here."""

    async def resolve(self, principal: Principal) -> str:
        """Return the id of the principal's user, made at first sight."""
        ...

    async def find(self, subject: str, tenant: str | None) -> str | None:
        """Return the id of a user who has been here, and was not deleted."""
        ...

    async def erase(self, user_id: str) -> Sequence[str]:
        """Forget who a user was, and hide all that is theirs; return their sessions.

        Entries of what the upstream keeps are retired; rows go when it keeps nothing more.
        """
        ...

    async def queued_runs(self, user_id: str) -> int:
        """Count the user's runs that wait in the queue."""
        ...


class Assistants(Protocol):
    """The tutors of a tenant and of single users, and the default one of all."""

    async def get(
        self, user: User, assistant_id: str, *, lock: AssistantLock | None = None
    ) -> Assistant | None:
        """Return one that the user may use."""
        ...

    async def default(self) -> Assistant:
        """Return the one that sessions get which name none."""
        ...

    async def config(self, assistant_id: str, version: int) -> AssistantConfig:
        """Return what a version of an assistant, archived or not, was."""
        ...

    async def versions(
        self, keys: Collection[VersionKey]
    ) -> Mapping[VersionKey, "AssistantVersion"]:
        """Return what versions were; each must exist."""
        ...

    async def vary(self, assistant: Assistant, config: AssistantConfig) -> int:
        """Keep a configuration for single runs, unlisted; return its version."""
        ...

    async def list(self, user: User, page: PageQuery) -> Page[Assistant]:
        """Return those that the user may use."""
        ...

    async def add(
        self, user: User, config: AssistantConfig, metadata: JsonObject, *, is_own: bool
    ) -> Assistant:
        """Make a new one: the user's own, or the tenant's."""
        ...

    async def update(
        self, assistant: Assistant, config: AssistantConfig, metadata: JsonObject
    ) -> Assistant:
        """Write its next version."""
        ...

    async def remove(self, assistant: Assistant) -> None:
        """Archive it; delete it if nothing ever used it."""
        ...


@dataclass(frozen=True, slots=True)
class SessionChange:
    """What a client may change of a session; absent is untouched."""

    title: str | None = None
    clear_title: bool = False
    metadata: JsonObject | None = None
    status: SessionStatus | None = None


class Sessions(Protocol):
    """Tutoring sessions; every look-up is by owner."""

    async def add(
        self,
        user_id: str,
        assistant_id: str,
        title: str | None,
        metadata: JsonObject,
        *,
        created_at: datetime | None = None,
    ) -> TutoringSession:
        """Open a session; one that was opened elsewhere, long ago, keeps its age."""
        ...

    async def get(
        self, user_id: str, session_id: str, *, for_update: bool = False
    ) -> TutoringSession | None:
        """Return the user's session; with `for_update`, its row is locked."""
        ...

    async def list(self, user_id: str, page: PageQuery) -> Page[TutoringSession]:
        """Return the user's sessions by age."""
        ...

    async def change(self, session_id: str, change: SessionChange) -> TutoringSession:
        """Apply a client's change."""
        ...

    async def hide(self, session_id: str) -> None:
        """Delete it for its user at once, with files of no other session, and fence its run.

        Rows go when it is purged.
        """
        ...


class Messages(Protocol):
    """The transcript. Rows are written by the log alone, but for their metadata."""

    async def get(self, session_id: str, message_id: str) -> Message | None:
        """Return one, with the text that it has so far."""
        ...

    async def list(
        self, session_id: str, page: PageQuery, *, run_id: str | None = None
    ) -> Page[Message]:
        """Return those of a session, with the text that they have so far."""
        ...

    async def turns(self, run: Run, fence: int, *, after: int) -> Sequence[Message]:
        """Return ended messages after a turn, up to the run's; none when the run was lost."""
        ...

    async def last_turn(self, session_id: str) -> Message | None:
        """Return the newest message of the user, if there is one."""
        ...

    async def annotate(self, session_id: str, message_id: str, metadata: JsonObject) -> None:
        """Replace one's metadata."""
        ...

    async def remove(self, message: Message) -> None:
        """Delete one, with its events and the answers that tell of it: cursors before it reset."""
        ...


class Runs(Protocol):
    """Runs. Rows are written by the log alone, but for the queue's columns and metadata."""

    async def get(self, user_id: str, session_id: str, run_id: str) -> Run | None:
        """Return one in one query, ownership included."""
        ...

    async def list(self, session_id: str, page: PageQuery) -> Page[Run]:
        """Return those of a session."""
        ...

    async def of(self, session_id: str, run_ids: Collection[str]) -> Mapping[str, Run]:
        """Return some of a session's by id."""
        ...

    async def steps(self, run: Run) -> Sequence[RunStep]:
        """Return what a run did besides speaking, in order."""
        ...

    async def annotate(self, session_id: str, run_id: str, metadata: JsonObject) -> None:
        """Replace one's metadata."""
        ...

    async def admission(self, session: TutoringSession) -> "Admission":
        """Return what decides whether, and how, the session gets another run."""
        ...

    async def waiting(self, *, limit: int) -> int:
        """Count the runs that wait in the queue, of all users, up to a limit."""
        ...


@dataclass(frozen=True, slots=True)
class Admission:
    """What waits already, and the assistant as it is now."""

    waiting_in_session: int
    oldest_waiting: str | None
    """The id of the run that has waited longest in the session."""
    waiting_of_user: int
    assistant_version: int
    model: str


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes a creating request recognisable when its client sends it again."""

    route: str
    """Its method and path: the same key may stand for other things elsewhere."""
    key: str
    digest: bytes
    """Of its body."""


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """What a creating request was answered the first time."""

    digest: bytes
    body: str
    """The JSON, as it was sent."""


class Answers(Protocol):
    """First answers to creating requests, kept for a day."""

    async def begin(self, user_id: str, request: RequestKey) -> FirstAnswer | None:
        """Return the first answer; None makes this transaction the one that gives it.

        Raises:
            RequestInFlightError: Another transaction is giving it. Nobody waits for a lock here.
        """
        ...

    async def keep(
        self, user_id: str, request: RequestKey, body: str, *, session_id: str | None
    ) -> None:
        """Store the first answer; it is deleted with the session that it tells of."""
        ...

    async def forget(self) -> None:
        """Delete answers that are older than a day."""
        ...


@dataclass(frozen=True, slots=True)
class TicketGrant:
    """What a stream ticket opens."""

    user_id: str
    session_id: str
    expires_at: datetime


class Tickets(Protocol):
    """Stream tickets; only their digests are kept."""

    async def add(
        self, digest: bytes, user_id: str, session_id: str, *, expires_at: float
    ) -> datetime:
        """Store one; return until when its first use is possible."""
        ...

    async def redeem(self, digest: bytes) -> TicketGrant | None:
        """Use one: None when it is unknown, was not used in time, or is past its token."""
        ...
