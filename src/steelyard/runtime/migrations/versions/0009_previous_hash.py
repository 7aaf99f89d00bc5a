"""Each change carries the hash of the change before it: it proves itself, and a proof needs no join."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0009_previous_hash"
down_revision = "0008_sync_control"
SCRIPTS = ("0009_previous_hash.sql",)


def upgrade() -> None:
    """Add and fill the column. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
