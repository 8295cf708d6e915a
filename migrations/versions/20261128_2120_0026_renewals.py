"""No index of leases: each renewal wrote an entry into every index of the run.

Revision: 0026
Follows: 0025
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.drop_index("ix_runs_leased", table_name="runs")


def downgrade() -> None:
    """Take back."""
    op.create_index(
        "ix_runs_leased",
        "runs",
        ["lease_expires_at"],
        unique=False,
        postgresql_where="status IN ('in_progress', 'cancelling')",
    )
