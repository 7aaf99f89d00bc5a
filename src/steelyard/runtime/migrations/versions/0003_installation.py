"""The key that signs hints between the processes of one installation."""

from steelyard.runtime.migrations.run_sql import run_sql

revision = "0003_installation"
down_revision = "0002_reconcile"
SCRIPTS = ("0003_installation.sql",)


def upgrade() -> None:
    """Create the installation's one row. There is no way down: restore a backup instead."""
    run_sql(SCRIPTS)
