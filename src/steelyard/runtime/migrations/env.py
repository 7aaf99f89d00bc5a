"""How alembic reaches the database: asyncpg, as steelyard_owner, one advisory lock for all."""

import asyncio

from alembic import context
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from steelyard.runtime.database import connect
from steelyard.runtime.migrate import LOCK


def _run(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
    connection.execute(text("SET ROLE steelyard_owner"))
    connection.commit()
    context.configure(
        connection=connection, version_table_schema="steelyard", transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


async def _main(url: str) -> None:
    # The URL goes to asyncpg as it is: SQLAlchemy reads a socket folder in it differently.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(url), poolclass=NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(_run)
    await engine.dispose()


asyncio.run(_main(context.config.attributes["admin_url"]))
