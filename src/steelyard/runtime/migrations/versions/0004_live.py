"""What the live gateway reads in one call for many users: changes after positions, standings."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0004_live"
down_revision = "0003_installation"
SCRIPTS = ("0004_live.sql",)


def upgrade() -> None:
    """Create the functions. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
