"""After a worker's death: its targets are due again, and their runs do not pretend that somebody works on them.

Leasing alone would take them again, since a lease is a due time. This tells the truth too where nothing may be
leased: the circuit is open, the budget is spent, or no worker runs but this one that just began.
"""

from collections.abc import Sequence
from itertools import groupby

from steelyard.core.clock import Clock
from steelyard.core.ids import TenantId
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.model import Lease

AT_ONCE = 1_000


async def free_lost_leases(database: Database, clock: Clock) -> int:
    """Free leases that ran out, of all tenants, at most 1000 in one call. Returns how many were freed.

    The run goes on with its next attempt; after three lost ones the next lease closes it as expired.
    """
    lost = await store.list_lost_leases(database, limit=AT_ONCE, now=clock.now())
    freed = 0
    for tenant, targets in groupby(sorted(lost), key=lambda one: one[0]):
        async with database.unit_of_work(tenant) as uow:
            places = [(kind, subject) for _, kind, subject in targets]
            freed += await store.free_lost_leases(uow, places, now=clock.now())
    return freed


async def lower_unwaited(database: Database, clock: Clock) -> int:
    """Let targets of all tenants make way that a login waited for on a server that ended. Returns how many."""
    lowered = 0
    for tenant in await store.list_unwaited(database, now=clock.now()):
        async with database.unit_of_work(tenant) as uow:
            lowered += await store.lower_waited(uow, now=clock.now())
    return lowered


async def give_back(database: Database, leases: Sequence[Lease], clock: Clock) -> int:
    """End leases that are still held without a result: their targets are due now, for others. Returns how many.

    Their numbers are raised, so that nothing their worker might still bring is written.
    """
    returned = 0
    for tenant, held in groupby(sorted(leases, key=_tenant_of), key=_tenant_of):
        async with database.unit_of_work(tenant) as uow:
            returned += await store.give_back(uow, list(held), now=clock.now())
    return returned


def _tenant_of(lease: Lease) -> TenantId:
    return lease.tenant
