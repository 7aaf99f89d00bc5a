"""Tenants, accounts, changes, the chain, and the functions that write them."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0001_foundation"
down_revision = None
SCRIPTS = (
    "0001_tables.sql",
    "refuse_rewriting.sql",
    "0001_chain.sql",
    "0001_post_batch.sql",
    "post_contra.sql",
    "post_batch.sql",
    "0001_accounts.sql",
)


def upgrade() -> None:
    """Create everything of the foundation. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
