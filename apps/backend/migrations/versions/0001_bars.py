"""Daily bars, and the outcome of their refreshes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "bars",
        sa.Column("symbol", sa.String(15), primary_key=True),
        sa.Column("source", sa.String(9), primary_key=True),
        sa.Column("date", sa.Date, primary_key=True),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("open", "high", "low", "close", "volume")),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("source IN ('ibkr', 'simulated')", name="bars_source_check"),
    )
    op.create_table(
        "refreshes",
        sa.Column("symbol", sa.String(15), primary_key=True),
        sa.Column("source", sa.String(9)),
        sa.Column("history_start", sa.Date),
        sa.Column("last_attempt", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_success", sa.DateTime(timezone=True)),
        sa.Column("last_error", sa.Text),
        sa.Column("failures", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Revert."""
    op.drop_table("refreshes")
    op.drop_table("bars")
