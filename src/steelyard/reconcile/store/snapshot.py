"""One moment of one tenant, for long reads beside running charges."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from steelyard.core.ids import TenantId
from steelyard.runtime.database import Database, UnitOfWork

SCAN_DEADLINE_S = 3600.0
"""The longest one pass over a tenant's history may take."""

MEMORY_MB = 64
"""Memory one sort or hash of a pass may use before it goes to disk, per process of the pass."""


@asynccontextmanager
async def open_snapshot(database: Database, tenant: TenantId) -> AsyncIterator[UnitOfWork]:
    """Open a REPEATABLE READ, read-only unit of work: everything read in it is of one moment.

    It blocks no charge and is blocked by none.
    """
    async with database.unit_of_work(tenant) as uow:
        await uow.execute(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; "
            f"SET LOCAL work_mem = '{MEMORY_MB}MB'; SET LOCAL enable_mergejoin = off"
        )
        yield uow
