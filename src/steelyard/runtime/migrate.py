"""Brings the schema to the newest revision: alembic, with plain SQL in the revisions."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg

from steelyard.core.errors import SteelyardError
from steelyard.runtime.database import connect

FOLDER = Path(__file__).parent / "migrations"
SQL_FOLDER = FOLDER / "sql"


class SchemaBehind(SteelyardError):
    """The database's schema is not the one this release needs."""

    code = "schema_behind"

    def __init__(self, *, found: str | None, needed: str) -> None:
        self.found, self.needed = found, needed
        super().__init__(
            f"the database is at revision {found or 'none'}, this release needs {needed}; "
            "run `steelyard migrate`"
        )


def list_revisions() -> list[str]:
    """Return the ids of the revisions this release ships, oldest first, read from their files' names."""
    return sorted(path.stem for path in (FOLDER / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))


def newest_revision() -> str:
    """Return the id of the newest revision this release ships."""
    return list_revisions()[-1]


async def find_revision(url: str) -> str | None:
    """Return the revision the database is at, or None where it was never migrated."""
    connection = await connect(url)
    try:
        found: str | None = await connection.fetchval(
            "SELECT version_num FROM steelyard.alembic_version"
        )
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    finally:
        await connection.close(timeout=5)
    return found


async def migrate(admin_url: str, *, report: Callable[[str], None] = lambda _: None) -> str:
    """Run the revisions that are missing, each in its own transaction, under an advisory lock.

    Returns:
        The revision the database is at now.
    """
    newest = newest_revision()
    found = await find_revision(admin_url)
    if found == newest:
        return newest
    report(f"migrating the schema from {found or 'nothing'} to {newest}")
    await asyncio.to_thread(_run_alembic, admin_url)
    return newest


def _run_alembic(admin_url: str) -> None:
    # Imported here: half a second that a current database does not need.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["admin_url"] = admin_url
    command.upgrade(config, "head")
