"""Gaps and splits of bars, signals, portfolios, and the gateway's session."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

SOURCE = "source IN ('ibkr', 'simulated')"


def upgrade() -> None:
    """Apply."""
    moment = sa.DateTime(timezone=True)
    op.add_column("refreshes", sa.Column("exchange", sa.String(20)))
    op.add_column("refreshes", sa.Column("missing", sa.JSON))
    op.create_table(
        "adjustments",
        sa.Column("symbol", sa.String(15), primary_key=True),
        sa.Column("source", sa.String(9), primary_key=True),
        sa.Column("date", sa.Date, primary_key=True),
        sa.Column("ratio", sa.Double, nullable=False),
        sa.Column("noted_at", moment, nullable=False),
    )
    op.create_table(
        "signals",
        sa.Column("symbol", sa.String(15), primary_key=True),
        sa.Column("source", sa.String(9), primary_key=True),
        sa.Column("kind", sa.String(13), primary_key=True),
        sa.Column("model_version", sa.String(20), primary_key=True),
        sa.Column("date", sa.Date, primary_key=True),
        sa.Column("model_name", sa.String(255), nullable=False),
        sa.Column("probability", sa.Double, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("made_at", moment, nullable=False),
        sa.CheckConstraint(SOURCE, name="signals_source_check"),
        sa.CheckConstraint("kind IN ('live', 'out_of_sample')", name="signals_kind_check"),
    )
    op.create_table(
        "scorings",
        sa.Column("symbol", sa.String(15), primary_key=True),
        sa.Column("source", sa.String(9), nullable=False),
        sa.Column("model_name", sa.String(255), nullable=False),
        sa.Column("model_version", sa.String(20), nullable=False),
        sa.Column("last_bar", sa.Date, nullable=False),
        sa.Column("attempted_at", moment, nullable=False),
        sa.Column("error", sa.Text),
    )
    op.create_table(
        "portfolios",
        sa.Column("account_id", sa.String(32), primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("currency", sa.String(8)),
        sa.Column("paper", sa.Boolean),
        sa.Column("simulated", sa.Boolean, nullable=False),
        sa.Column("summary", sa.JSON, nullable=False),
        sa.Column("positions", sa.JSON, nullable=False),
        sa.Column("fetched_at", moment, nullable=False),
    )
    op.create_table(
        "gateway_session",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("checked_at", moment, nullable=False),
        sa.Column("logged_in", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("logged_in_at", moment),
        sa.Column("alert", sa.Text),
        sa.Column("alerted_at", moment),
        sa.Column("missed", sa.Integer, nullable=False),
        sa.Column("drops", sa.Integer, nullable=False),
        sa.Column("reopened", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Revert."""
    for table in ("gateway_session", "portfolios", "scorings", "signals", "adjustments"):
        op.drop_table(table)
    op.drop_column("refreshes", "missing")
    op.drop_column("refreshes", "exchange")
