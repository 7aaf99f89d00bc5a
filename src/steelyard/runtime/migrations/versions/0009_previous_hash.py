"""Each change carries the hash of the change before it: it proves itself, and a proof needs no join."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0009_previous_hash"
down_revision = "0008_sync_control"
SCRIPTS = (
    "0009_previous_hash.sql",
    "refuse_rewriting.sql",
    "prove_accounts.sql",
    "post_contra.sql",
    "as_ledger.sql",
    "post_batch.sql",
    "advance_checkpoints.sql",
    "mirror_balances.sql",
    "as_owner.sql",
)


def upgrade() -> None:
    """Add and fill the column. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
