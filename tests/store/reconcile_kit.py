"""What the tests of reconciliation share: a way to break things that no program has, and the proof itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.reconcile.operations import Reconcile
from steelyard.runtime.database import Connection
from tests.world import World


def reconcile_of(world: World, tenant: TenantId = DEFAULT_TENANT) -> Reconcile:
    """Return reconciliation with everything beside it."""
    return Reconcile(world.database, tenant, world.clock, cache=world.cache, bus=world.bus)


@asynccontextmanager
async def tampering(world: World) -> AsyncIterator[Connection]:
    """Give a superuser's connection on which triggers and foreign keys do not fire."""
    connection = await world.as_superuser()
    try:
        await connection.execute(
            "SET session_replication_role = replica; SET search_path = steelyard"
        )
        yield connection
    finally:
        await connection.close()
