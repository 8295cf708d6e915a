"""Threads that were imported, so that none is twice.

Revision: 0021
Follows: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "imported_threads",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column(
            "imported_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_imported_threads_user_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_imported_threads")),
        sa.UniqueConstraint(
            "source_id",
            "tenant",
            name=op.f("uq_imported_threads_source_id_tenant"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index("ix_imported_threads_user", "imported_threads", ["user_id"], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_table("imported_threads")
