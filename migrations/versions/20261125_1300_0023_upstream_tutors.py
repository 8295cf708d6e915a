"""Assistants that stand upstream for configurations.

Revision: 0023
Follows: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "upstream_tutors",
        sa.Column("tutor_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column(
            "used_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("tutor_id", name=op.f("pk_upstream_tutors")),
    )
    op.create_index(
        "ix_upstream_tutors_current",
        "upstream_tutors",
        ["digest"],
        unique=True,
        postgresql_where="retired_at IS NULL",
    )


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_upstream_tutors_current", table_name="upstream_tutors")
    op.drop_table("upstream_tutors")
