"""Symbols that name an exchange or a contract."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = ("bars", "refreshes", "adjustments", "signals", "scorings")


def upgrade() -> None:
    """Apply."""
    _change(15, 36)


def downgrade() -> None:
    """Take back; fails while a symbol is longer."""
    _change(36, 15)


def _change(before: int, after: int) -> None:
    for table in TABLES:
        # SQLite makes the table anew; PostgreSQL only notes the length.
        with op.batch_alter_table(table) as change:
            change.alter_column(
                "symbol", existing_type=sa.String(before), type_=sa.String(after), existing_nullable=False
            )
