"""Vector stores, and which files are in them.

Revision: 0025
Follows: 0024
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
JSON = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "vector_stores",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("meta", JSON, nullable=False),
        sa.Column(
            "created_at", INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_vector_stores_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vector_stores")),
    )
    op.create_index(
        "ix_vector_stores_owner", "vector_stores", ["user_id", "created_at", "id"], unique=False
    )
    op.create_table(
        "vector_store_files",
        sa.Column("store_id", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("usage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("chunking", JSON, nullable=False),
        sa.Column(
            "created_at", INSTANT, server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["files.id"],
            name=op.f("fk_vector_store_files_file_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["store_id"],
            ["vector_stores.id"],
            name=op.f("fk_vector_store_files_store_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("store_id", "file_id", name=op.f("pk_vector_store_files")),
    )
    op.create_index("ix_vector_store_files_file", "vector_store_files", ["file_id"], unique=False)
    op.create_index(
        "ix_vector_store_files_age",
        "vector_store_files",
        ["store_id", "created_at", "file_id"],
        unique=False,
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("vector_store_files")
    op.drop_table("vector_stores")
