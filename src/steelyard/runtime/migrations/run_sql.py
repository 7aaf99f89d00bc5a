"""Runs files of plain SQL inside a revision."""

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "sql"


def read_sql(name: str) -> str:
    """Return the text of `sql/<name>`."""
    return (FOLDER / name).read_text(encoding="utf-8")


def run_sql(names: Sequence[str]) -> None:
    """Run each file whole, in the revision's transaction. asyncpg's simple protocol takes many statements."""
    from alembic import op  # a new database is made without alembic

    bind = op.get_bind()
    # Nothing sent beneath SQLAlchemy begins its transaction: what alembic sent before did.
    bind.exec_driver_sql("SELECT 1")
    adapted = bind.connection.dbapi_connection
    for name in names:
        script = read_sql(name)
        adapted.run_async(lambda connection, script=script: connection.execute(script))  # type: ignore[union-attr]
