"""Schema revisions: alembic, plain SQL."""
