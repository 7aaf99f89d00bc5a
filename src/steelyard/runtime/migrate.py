"""Brings the schema to the newest revision: alembic, with plain SQL in the revisions.

A new database is made by the same SQL without alembic, whose import alone takes longer than all of
it; it is marked as alembic would have marked it. A test compares what both ways make.
"""

import asyncio
import importlib.util
from collections.abc import Callable
from pathlib import Path

import asyncpg

from steelyard.core.errors import SteelyardError
from steelyard.runtime.database import connect
from steelyard.runtime.migrations.run_sql import read_sql

LOCK = 0x5EE1_7A4E
"""Advisory lock of whoever migrates."""

FOLDER = Path(__file__).parent / "migrations"
SQL_FOLDER = FOLDER / "sql"

# As alembic makes it.
_VERSION_TABLE = """
    CREATE TABLE steelyard.alembic_version (
        version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))
"""


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
    if found is None:
        await make_schema(admin_url)
    if await find_revision(admin_url) != newest:
        await asyncio.to_thread(run_alembic, admin_url)
    return newest


async def make_schema(admin_url: str) -> None:
    """Run every revision on a database that has none, in one transaction; do nothing where somebody was first."""
    connection = await connect(admin_url)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        await connection.execute("SET ROLE steelyard_owner")
        async with connection.transaction():
            if await connection.fetchval("SELECT to_regclass('steelyard.alembic_version')"):
                return
            await connection.execute(_VERSION_TABLE)
            for revision in list_revisions():
                for name in _scripts_of(revision):
                    await connection.execute(read_sql(name))
            await connection.execute(
                "INSERT INTO steelyard.alembic_version (version_num) VALUES ($1)", newest_revision()
            )
    finally:
        await connection.close(timeout=5)


def _scripts_of(revision: str) -> tuple[str, ...]:
    path = FOLDER / "versions" / f"{revision}.py"
    spec = importlib.util.spec_from_file_location(revision, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scripts: tuple[str, ...] = module.SCRIPTS
    return scripts


def run_alembic(admin_url: str, *, to: str = "head") -> None:
    """Run the missing revisions with alembic, the newest one or `to` last; blocks."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["admin_url"] = admin_url
    command.upgrade(config, to)
