"""Assistants that are one user's own.

Revision: 0020
Follows: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("assistants", sa.Column("owner_id", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_assistants_owner_id"), "assistants", "users", ["owner_id"], ["id"]
    )
    op.create_index(
        "ix_assistants_owner",
        "assistants",
        ["owner_id", "created_at", "id"],
        unique=False,
        postgresql_where="owner_id IS NOT NULL",
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_assistants_owner", table_name="assistants")
    op.drop_constraint(op.f("fk_assistants_owner_id"), "assistants", type_="foreignkey")
    op.drop_column("assistants", "owner_id")
