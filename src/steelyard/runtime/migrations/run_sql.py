"""Runs a file of plain SQL inside a revision."""

from pathlib import Path

from alembic import op

FOLDER = Path(__file__).parent / "sql"


def run_sql(name: str) -> None:
    """Run `sql/<name>` whole, in the revision's transaction. asyncpg's simple protocol takes many statements."""
    script = (FOLDER / name).read_text(encoding="utf-8")
    adapted = op.get_bind().connection.dbapi_connection
    adapted.run_async(lambda connection: connection.execute(script))  # type: ignore[union-attr]
