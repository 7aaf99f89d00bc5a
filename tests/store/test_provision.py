"""A database is made ready by an administrator who is no superuser, and everything works on it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from steelyard.access.api_keys import KeyOrder, create_api_key
from steelyard.access.guard import check_database
from steelyard.access.model import Role
from steelyard.access.tenants import list_tenants
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.ledger.store import list_due_holds
from steelyard.runtime.database import Connection, Database, connect
from steelyard.runtime.migrate import newest_revision
from steelyard.runtime.provision import GROUPS, prepare_database, url_for_login
from tests.store.access.access_kit import ACME, ZETA, Door
from tests.unit.access.token_kit import NOW
from tests.world import FreshDatabase, World, drop_database, with_database

PASSWORD = "only on a test server"


@dataclass(frozen=True)
class Owned:
    """An empty database that belongs to a role with CREATEROLE and nothing more."""

    name: str
    owner_url: str
    login: str


async def let_administer(connection: Connection, owner: str) -> None:
    """Let the role administer our groups, as it could had it made them; elsewhere they are there already."""
    if connection.get_server_version().major >= 16:
        await connection.execute(
            f"GRANT {', '.join(GROUPS)} TO {owner} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
        )


@asynccontextmanager
async def owned_database(admin_url: str) -> AsyncIterator[Owned]:
    """Make the database and its owner; drop them and the product's login afterwards."""
    name, owner, login = (f"sy_{what}_{secrets.token_hex(4)}" for what in ("own", "admin", "log"))
    connection = await connect(admin_url)
    try:
        await connection.execute(f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
        await connection.execute(f"CREATE DATABASE {name} OWNER {owner}")
        await let_administer(connection, owner)
        try:
            yield Owned(name, url_for_login(with_database(admin_url, name), owner, PASSWORD), login)
        finally:
            await drop_database(admin_url, name)
            await connection.execute(f"DROP OWNED BY {owner}")
            await connection.execute(f"DROP ROLE IF EXISTS {login}")
            await connection.execute(f"DROP ROLE {owner}")
    finally:
        await connection.close()


@asynccontextmanager
async def world_on(owned: Owned, admin_url: str) -> AsyncIterator[World]:
    """Prepare the database as its owner, twice; then the ledger on it, logged in as the product."""
    for _ in range(2):
        made = await prepare_database(owned.owner_url, login=owned.login, password=PASSWORD)
        assert made.revision == newest_revision()
    database = await Database.open(made.app_url)
    assert (await check_database(database)).role == owned.login
    fresh = FreshDatabase(owned.name, with_database(admin_url, owned.name), made.app_url)
    world = await World.open(database, fresh)
    yield world
    await world.close()
    await database.close()


async def test_everything_that_serves_many_tenants_works_without_a_superuser(
    admin_url: str, template: str
) -> None:
    async with owned_database(admin_url) as owned, world_on(owned, admin_url) as world:
        superuser = await world.as_superuser()
        assert not await superuser.fetchval(
            "SELECT bool_or(rolbypassrls) FROM pg_roles WHERE rolname = ANY ($1)",
            [*GROUPS, owned.login],
        )
        await superuser.close()
        tenants = [DEFAULT_TENANT, ACME, ZETA]
        for tenant in (ACME, ZETA):
            await world.make_tenant(tenant)
        assert [tenant.id for tenant in await list_tenants(world.database)] == sorted(tenants)

        accounts = {tenant: await world.open_account(1_000, tenant=tenant) for tenant in tenants}
        charges = [
            world.ledger(tenant).charge(accounts[tenant], 10)
            for tenant in tenants
            for _ in range(20)
        ]
        assert {posted.replayed for posted in await asyncio.gather(*charges)} == {False}
        held = await world.ledger(ACME).hold(accounts[ACME], 5, expires_in=timedelta(seconds=1))
        balances = [await world.balance(accounts[tenant], tenant) for tenant in tenants]
        assert [(one.tenant, one.posted, one.held) for one in balances] == [
            (DEFAULT_TENANT, 800, 0),
            (ACME, 800, 5),
            (ZETA, 800, 0),
        ]
        assert world.commit.counts.largest_batch > 20

        later = world.clock.now() + timedelta(minutes=1)
        assert await list_due_holds(world.database, later, 10) == [(ACME, held.transaction)]

        async with world.database.unit_of_work(ZETA) as uow:
            order = KeyOrder("till", Role.SERVICE)
            key = await create_api_key(uow, order, created_by="boss", now=NOW)
        assert (await Door.on(world.database).enter(key.text)).tenant == ZETA
