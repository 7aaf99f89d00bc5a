"""What is pulled from other sources and when, what became of it, and how much each source allows."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0005_sync"
down_revision = "0004_live"
SCRIPTS = ("0005_sync.sql", "0005_mirror.sql", "mirror_balances.sql", "0005_mirror_rights.sql")


def upgrade() -> None:
    """Create the tables and functions. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
