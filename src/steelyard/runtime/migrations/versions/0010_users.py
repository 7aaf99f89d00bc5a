"""Customers of a bank: their number there, and who has an account of a number."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0010_users"
down_revision = "0009_previous_hash"
SCRIPTS = ("0010_users.sql",)


def upgrade() -> None:
    """Add the column and the index. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
