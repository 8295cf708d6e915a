"""The foundation: users, assistants, sessions, runs, messages, the log, and the default tutor.

Revision: 0001
Follows: nothing
"""

import json
import os

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "assistants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assistants")),
    )
    op.create_index(
        "ix_assistants_one_default",
        "assistants",
        ["is_default"],
        unique=True,
        postgresql_where="is_default",
    )
    op.create_index(
        "ix_assistants_tenant", "assistants", ["tenant", "created_at", "id"], unique=False
    )
    op.create_table(
        "events",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("session_id", "seq", name=op.f("pk_events")),
    )
    op.create_table(
        "upstream_threads",
        sa.Column("thread_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column(
            "opened_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("thread_id", name=op.f("pk_upstream_threads")),
    )
    op.create_index(
        "ix_upstream_threads_session", "upstream_threads", ["session_id"], unique=False
    )
    op.create_index(
        "ix_upstream_threads_to_delete",
        "upstream_threads",
        ["retired_at"],
        unique=False,
        postgresql_where="retired_at IS NOT NULL AND deleted_at IS NULL",
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint(
            "tenant",
            "subject",
            name=op.f("uq_users_tenant_subject"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column(
            "seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "assistant_versions",
        sa.Column("assistant_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["assistant_id"],
            ["assistants.id"],
            name=op.f("fk_assistant_versions_assistant_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("assistant_id", "version", name=op.f("pk_assistant_versions")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("assistant_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column(
            "status",
            sa.Enum(
                "open", "ended", name="session_status", native_enum=False, create_constraint=True
            ),
            nullable=False,
        ),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("active_run_id", sa.Text(), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("pruned_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("upstream_thread_id", sa.Text(), nullable=True),
        sa.Column("upstream_turn", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("upstream_tail", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["assistant_id"], ["assistants.id"], name=op.f("fk_sessions_assistant_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        postgresql_with={"fillfactor": "60"},
    )
    op.create_index(
        "ix_sessions_hidden",
        "sessions",
        ["deleted_at"],
        unique=False,
        postgresql_where="deleted_at IS NOT NULL",
    )
    op.create_index("ix_sessions_owner", "sessions", ["user_id", "created_at", "id"], unique=False)
    op.create_table(
        "messages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column(
            "role",
            sa.Enum("user", "assistant", name="role", native_enum=False, create_constraint=True),
            nullable=False,
        ),
        sa.Column(
            "status",
            sa.Enum(
                "in_progress",
                "completed",
                "incomplete",
                name="message_status",
                native_enum=False,
                create_constraint=True,
            ),
            nullable=False,
        ),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_messages_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("session_id", "seq", name=op.f("uq_messages_session_id_seq")),
    )
    op.create_index(
        "ix_messages_one_answer",
        "messages",
        ["run_id"],
        unique=True,
        postgresql_where="role = 'assistant'",
    )
    op.create_index("ix_messages_turns", "messages", ["session_id", "turn"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("assistant_id", sa.Text(), nullable=False),
        sa.Column("assistant_version", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "queued",
                "in_progress",
                "requires_action",
                "cancelling",
                "cancelled",
                "failed",
                "completed",
                "incomplete",
                "expired",
                name="run_status",
                native_enum=False,
                create_constraint=True,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("input_message_id", sa.Text(), nullable=True),
        sa.Column("output_message_id", sa.Text(), nullable=True),
        sa.Column("tool_calls", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("last_error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("incomplete_reason", sa.Text(), nullable=True),
        sa.Column("usage", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pruned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("handovers", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("upstream_response_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["assistant_id", "assistant_version"],
            ["assistant_versions.assistant_id", "assistant_versions.version"],
            name=op.f("fk_runs_assistant_id_assistant_version"),
        ),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_runs_session_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("session_id", "seq", name=op.f("uq_runs_session_id_seq")),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "ix_runs_action",
        "runs",
        ["expires_at"],
        unique=False,
        postgresql_where="status = 'requires_action'",
    )
    op.create_index(
        "ix_runs_leased",
        "runs",
        ["lease_expires_at"],
        unique=False,
        postgresql_where="status IN ('in_progress', 'cancelling')",
    )
    op.create_index(
        "ix_runs_one_active",
        "runs",
        ["session_id"],
        unique=True,
        postgresql_where="status IN ('in_progress', 'requires_action', 'cancelling')",
    )
    op.create_index(
        "ix_runs_queue", "runs", ["created_at"], unique=False, postgresql_where="status = 'queued'"
    )
    op.create_index(
        "ix_runs_unpruned", "runs", ["ended_at"], unique=False, postgresql_where="NOT pruned"
    )
    op.create_index(
        "ix_runs_user_queue",
        "runs",
        ["user_id"],
        unique=False,
        postgresql_where="status = 'queued'",
    )
    op.create_index(
        "ix_runs_waiting",
        "runs",
        ["session_id", "seq"],
        unique=False,
        postgresql_where="status = 'queued'",
    )
    op.create_table(
        "stream_tickets",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("use_by", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_stream_tickets_session_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_stream_tickets_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_stream_tickets")),
    )
    op.create_index("ix_stream_tickets_expires_at", "stream_tickets", ["expires_at"], unique=False)
    _add_default_assistant()


def _add_default_assistant() -> None:
    """The tutorial's Math Tutor, on the model that the operator chose for it."""
    model = os.environ.get("DEFAULT_MODEL") or "gpt-5.4-mini"
    config = {
        "name": "Math Tutor",
        "description": "A personal math tutor.",
        "instructions": (
            "You are a personal math tutor. Answer questions briefly, in a sentence or less."
        ),
        "model": model,
        "tools": [],
        "tool_resources": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
    }
    op.execute(
        "INSERT INTO assistants (id, is_default, version, meta) "
        "VALUES ('asst_default', true, 1, '{}')"
    )
    op.execute(
        sa.text(
            "INSERT INTO assistant_versions (assistant_id, version, config) "
            "VALUES ('asst_default', 1, CAST(:config AS jsonb))"
        ).bindparams(config=json.dumps(config))
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_stream_tickets_expires_at", table_name="stream_tickets")
    op.drop_table("stream_tickets")
    op.drop_index("ix_runs_waiting", table_name="runs", postgresql_where="status = 'queued'")
    op.drop_index("ix_runs_user_queue", table_name="runs", postgresql_where="status = 'queued'")
    op.drop_index("ix_runs_unpruned", table_name="runs", postgresql_where="NOT pruned")
    op.drop_index("ix_runs_queue", table_name="runs", postgresql_where="status = 'queued'")
    op.drop_index(
        "ix_runs_one_active",
        table_name="runs",
        postgresql_where="status IN ('in_progress', 'requires_action', 'cancelling')",
    )
    op.drop_index(
        "ix_runs_leased",
        table_name="runs",
        postgresql_where="status IN ('in_progress', 'cancelling')",
    )
    op.drop_index(
        "ix_runs_action", table_name="runs", postgresql_where="status = 'requires_action'"
    )
    op.drop_table("runs")
    op.drop_index("ix_messages_turns", table_name="messages")
    op.drop_index(
        "ix_messages_one_answer", table_name="messages", postgresql_where="role = 'assistant'"
    )
    op.drop_table("messages")
    op.drop_index("ix_sessions_owner", table_name="sessions")
    op.drop_index(
        "ix_sessions_hidden", table_name="sessions", postgresql_where="deleted_at IS NOT NULL"
    )
    op.drop_table("sessions")
    op.drop_table("assistant_versions")
    op.drop_table("workers")
    op.drop_table("users")
    op.drop_index(
        "ix_upstream_threads_to_delete",
        table_name="upstream_threads",
        postgresql_where="retired_at IS NOT NULL AND deleted_at IS NULL",
    )
    op.drop_index("ix_upstream_threads_session", table_name="upstream_threads")
    op.drop_table("upstream_threads")
    op.drop_table("events")
    op.drop_index("ix_assistants_tenant", table_name="assistants")
    op.drop_index(
        "ix_assistants_one_default", table_name="assistants", postgresql_where="is_default"
    )
    op.drop_table("assistants")
