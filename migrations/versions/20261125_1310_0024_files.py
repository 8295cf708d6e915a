"""Files, and the ledger of what is kept upstream besides threads.

Revision: 0024
Follows: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=True),
        sa.Column(
            "created_at", INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_files_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_owner", "files", ["user_id", "created_at", "id"], unique=False)
    op.create_table(
        "file_uses",
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name=op.f("fk_file_uses_file_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_file_uses_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("file_id", "session_id", name=op.f("pk_file_uses")),
    )
    op.create_index("ix_file_uses_session", "file_uses", ["session_id"], unique=False)
    op.create_table(
        "upstream_objects",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("upstream_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column(
            "opened_at", INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("retired_at", INSTANT, nullable=True),
        sa.Column("deleted_at", INSTANT, nullable=True),
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("retry_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_upstream_objects")),
    )
    for name, columns, where in (
        ("session", ["session_id"], "session_id IS NOT NULL AND deleted_at IS NULL"),
        ("user", ["user_id"], "deleted_at IS NULL"),
        ("due", ["retry_at"], "retired_at IS NOT NULL AND deleted_at IS NULL"),
        ("unknown", ["opened_at"], "upstream_id IS NULL AND retired_at IS NULL"),
    ):
        op.create_index(
            f"ix_upstream_objects_{name}",
            "upstream_objects",
            columns,
            unique=False,
            postgresql_where=where,
        )
    op.add_column(
        "upstream_threads",
        sa.Column("attempts", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("upstream_threads", sa.Column("retry_at", INSTANT, nullable=True))
    op.add_column("users", sa.Column("deleted_at", INSTANT, nullable=True))


def downgrade() -> None:
    """Take back."""
    op.drop_column("users", "deleted_at")
    op.drop_column("upstream_threads", "retry_at")
    op.drop_column("upstream_threads", "attempts")
    op.drop_table("upstream_objects")
    op.drop_table("file_uses")
    op.drop_table("files")
