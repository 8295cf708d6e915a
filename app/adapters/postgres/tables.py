"""The tables. Invariants live here, as constraints, so that no code path can break them."""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    DateTime,
    Enum,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.domain.models import MessageStatus, Role, RunStatus, SessionStatus


def _values(enum: type[StrEnum]) -> list[str]:
    return [member.value for member in enum]


def _enum(enum: type[StrEnum], name: str) -> Enum:
    # SQLAlchemy would store the members' names, and the partial indexes below name values.
    return Enum(
        enum, name=name, native_enum=False, create_constraint=True, values_callable=_values
    )


class Base(DeclarativeBase):
    """Zoned instants, JSONB objects, values of enums, and predictable constraint names."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text(),
        int: BigInteger(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(),
        list[dict[str, Any]]: JSONB(),
        RunStatus: _enum(RunStatus, "run_status"),
        SessionStatus: _enum(SessionStatus, "session_status"),
        MessageStatus: _enum(MessageStatus, "message_status"),
        Role: _enum(Role, "role"),
    }


class UserRow(Base):
    """One subject of one tenant."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("tenant", "subject", postgresql_nulls_not_distinct=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str | None]
    subject: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]
    """Then `subject` is the id: who it was is forgotten at once, the rest as it can be."""


class AssistantRow(Base):
    """A tutor; what it is at each version stands in `assistant_versions`."""

    __tablename__ = "assistants"
    __table_args__ = (
        Index(
            "ix_assistants_one_default", "is_default", unique=True, postgresql_where="is_default"
        ),
        Index("ix_assistants_tenant", "tenant", "created_at", "id"),
        Index(
            "ix_assistants_owner",
            "owner_id",
            "created_at",
            "id",
            postgresql_where="owner_id IS NOT NULL",
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str | None]
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    """Whose own it is; without one it is the tenant's."""
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    version: Mapped[int]
    meta: Mapped[dict[str, Any]]
    archived_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AssistantVersionRow(Base):
    """What a tutor was, for the runs that used it; never changed."""

    __tablename__ = "assistant_versions"

    assistant_id: Mapped[str] = mapped_column(
        ForeignKey("assistants.id", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]]


class SessionRow(Base):
    """A conversation, its place in its log, its fence, and how far the upstream thread is."""

    __tablename__ = "sessions"
    __table_args__ = (
        Index("ix_sessions_owner", "user_id", "created_at", "id"),
        Index("ix_sessions_hidden", "deleted_at", postgresql_where="deleted_at IS NOT NULL"),
        # Every commit of deltas updates this row; room on its page keeps that off the indexes.
        {"postgresql_with": {"fillfactor": "60"}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    assistant_id: Mapped[str] = mapped_column(ForeignKey("assistants.id"))
    title: Mapped[str | None]
    status: Mapped[SessionStatus]
    meta: Mapped[dict[str, Any]]
    active_run_id: Mapped[str | None]
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    last_seq: Mapped[int] = mapped_column(server_default=text("0"))
    pruned_seq: Mapped[int] = mapped_column(server_default=text("0"))
    upstream_thread_id: Mapped[str | None]
    upstream_turn: Mapped[int] = mapped_column(server_default=text("0"))
    upstream_tail: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    deleted_at: Mapped[datetime | None]


class RunRow(Base):
    """A run, and its entry in the queue."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("session_id", "seq"),
        ForeignKeyConstraint(
            ["assistant_id", "assistant_version"],
            ["assistant_versions.assistant_id", "assistant_versions.version"],
        ),
        Index(
            "ix_runs_one_active",
            "session_id",
            unique=True,
            postgresql_where="status IN ('in_progress', 'requires_action', 'cancelling')",
        ),
        Index("ix_runs_queue", "created_at", postgresql_where="status = 'queued'"),
        Index("ix_runs_user_queue", "user_id", postgresql_where="status = 'queued'"),
        Index("ix_runs_waiting", "session_id", "seq", postgresql_where="status = 'queued'"),
        Index("ix_runs_unpruned", "ended_at", postgresql_where="NOT pruned"),
        Index("ix_runs_action", "expires_at", postgresql_where="status = 'requires_action'"),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    user_id: Mapped[str]
    assistant_id: Mapped[str]
    assistant_version: Mapped[int]
    model: Mapped[str]
    status: Mapped[RunStatus]
    attempts: Mapped[int]
    input_message_id: Mapped[str | None]
    output_message_id: Mapped[str | None]
    tool_calls: Mapped[list[dict[str, Any]] | None]
    last_error: Mapped[dict[str, Any] | None]
    incomplete_reason: Mapped[str | None]
    usage: Mapped[dict[str, Any] | None]
    meta: Mapped[dict[str, Any]]
    seq: Mapped[int]
    turn: Mapped[int]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    # The queue's own.
    worker_id: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    """In no index: a renewal would write into all of them. Active runs are few enough to read."""
    pruned: Mapped[bool] = mapped_column(server_default=text("false"))
    handovers: Mapped[int] = mapped_column(server_default=text("0"))
    upstream_response_id: Mapped[str | None]


class MessageRow(Base):
    """One turn of a conversation."""

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("session_id", "seq"),
        Index("ix_messages_turns", "session_id", "turn"),
        Index(
            "ix_messages_one_answer",
            "run_id",
            unique=True,
            postgresql_where="role = 'assistant'",
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    run_id: Mapped[str | None]
    role: Mapped[Role]
    status: Mapped[MessageStatus]
    content: Mapped[list[dict[str, Any]]]
    meta: Mapped[dict[str, Any]]
    seq: Mapped[int]
    turn: Mapped[int]
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]


class RunStepRow(Base):
    """What a run did besides speaking; written with the `run.step` that tells of it."""

    __tablename__ = "run_steps"
    __table_args__ = (
        Index("ix_run_steps_run", "run_id", "seq"),
        Index("ix_run_steps_session", "session_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    run_id: Mapped[str]
    kind: Mapped[str]
    status: Mapped[str]
    details: Mapped[dict[str, Any]]
    key: Mapped[str | None]
    """The upstream's name for it."""
    response_id: Mapped[str | None]
    said: Mapped[list[dict[str, Any]]]
    seq: Mapped[int]
    begun_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class EventRow(Base):
    """One entry of a session's log; `data` is the exact text that is sent.

    No foreign key: it is written under the session's lock anyway, and a check for each token
    costs as much as the token's row. No index but the key, for the same reason.
    """

    __tablename__ = "events"

    session_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    run_id: Mapped[str | None]
    data: Mapped[str]


class UpstreamThreadRow(Base):
    """Every thread ever opened upstream: the only index of what is kept there."""

    __tablename__ = "upstream_threads"
    __table_args__ = (
        Index("ix_upstream_threads_session", "session_id"),
        Index(
            "ix_upstream_threads_to_delete",
            "retired_at",
            postgresql_where="retired_at IS NOT NULL AND deleted_at IS NULL",
        ),
    )

    thread_id: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[str]
    """No foreign key: the record of what was deleted outlives the session."""
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retired_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    retry_at: Mapped[datetime | None]


class ImportedThreadRow(Base):
    """A conversation that came from elsewhere; kept when its session goes, so that it stays gone.

    One place in a tenant, whoever's it is: taken for a second user it would show the words of
    the first.
    """

    __tablename__ = "imported_threads"
    __table_args__ = (
        UniqueConstraint("source_id", "tenant", postgresql_nulls_not_distinct=True),
        Index("ix_imported_threads_user", "user_id"),
    )

    session_id: Mapped[str] = mapped_column(primary_key=True)
    """No foreign key: the record outlives the session."""
    source_id: Mapped[str]
    tenant: Mapped[str | None]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    """Of what the source held: another one means that it has changed since."""
    imported_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UpstreamTutorRow(Base):
    """An assistant upstream that stands for a configuration, until it is deleted there."""

    __tablename__ = "upstream_tutors"
    __table_args__ = (
        Index(
            "ix_upstream_tutors_current",
            "digest",
            unique=True,
            postgresql_where="retired_at IS NULL",
        ),
    )

    tutor_id: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retired_at: Mapped[datetime | None]


class AnswerRow(Base):
    """The first answer to a creating request that may be repeated."""

    __tablename__ = "answers"
    __table_args__ = (
        Index("ix_answers_created_at", "created_at"),
        Index("ix_answers_session", "session_id", postgresql_where="session_id IS NOT NULL"),
    )

    user_id: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    route: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    body: Mapped[str]
    session_id: Mapped[str | None]
    """It holds the student's words, and goes when the session is deleted."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class StreamTicketRow(Base):
    """A ticket for a native EventSource; only its digest is known here."""

    __tablename__ = "stream_tickets"
    __table_args__ = (Index("ix_stream_tickets_expires_at", "expires_at"),)

    digest: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    use_by: Mapped[datetime]
    used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]


class WorkerRow(Base):
    """A worker process, as last seen."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
