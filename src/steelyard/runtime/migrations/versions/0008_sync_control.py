"""Pausing and cancelling of syncs, and what their first release got wrong."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0008_sync_control"
down_revision = "0007_schedules"
SCRIPTS = ("0008_sync_control.sql",)


def upgrade() -> None:
    """Create the tables and functions. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
