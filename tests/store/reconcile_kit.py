"""What the tests of reconciliation share: a way to break things that no program has, and the proof itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from steelyard.balances.model import NewAccount
from steelyard.balances.store import open_accounts
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.reconcile.operations import Reconcile
from steelyard.runtime.currencies import find_currency
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


async def open_many_accounts(world: World, count: int, *, balance: int = 0) -> list[AccountId]:
    """Open accounts of as many new users, in bulk, and recharge them."""
    now, first = world.clock.now(), world.opened + 1
    world.opened += count
    names = [f"user-{n}" for n in range(first, first + count)]
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        await uow.execute(
            "INSERT INTO steelyard.app_user (tenant_id, id, created_at) SELECT $1, u, $3 FROM unnest($2::text[]) u",
            uow.tenant,
            names,
            now,
        )
        wanted = [NewAccount(UserId(name), find_currency("GBP")) for name in names]
        accounts = [account for account, _ in await open_accounts(uow, wanted, now=now)]
    for begin in range(0, count if balance else 0, 500):
        page = accounts[begin : begin + 500]
        await asyncio.gather(*(world.ledger().recharge(account, balance) for account in page))
    return accounts
