"""Runs as users and operators see them: found by a public token, listed, counted, removed when old."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0011_runs"
down_revision = "0010_users"
SCRIPTS = ("0011_runs.sql",)


def upgrade() -> None:
    """Create the indexes and the function. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
