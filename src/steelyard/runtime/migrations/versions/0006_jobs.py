"""Jobs and their runs: what is queued, who works on it, what became of it."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0006_jobs"
down_revision = "0005_sync"
SCRIPTS = ("0006_jobs.sql", "0006_procrastinate.sql")


def upgrade() -> None:
    """Create the tables and functions. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
