"""Schedules: when named work begins by itself, each tick once."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0007_schedules"
down_revision = "0006_jobs"
SCRIPTS = ("0007_schedules.sql",)


def upgrade() -> None:
    """Create the tables and functions. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
