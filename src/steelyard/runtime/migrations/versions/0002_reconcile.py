"""Checkpoints and the functions that prove and repair balances."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0002_reconcile"
down_revision = "0001_foundation"
SCRIPTS = (
    "0002_reconcile.sql",
    "prove_accounts.sql",
    "advance_checkpoints.sql",
    "0002_repair.sql",
)


def upgrade() -> None:
    """Create everything reconciliation needs. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
