"""The pool is fair, bounded and leaves nothing behind."""

import asyncio

import asyncpg
import pytest

from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.runtime.database import Database, quoted
from tests.world import FreshDatabase, World


async def setting(database: Database) -> list[str | None]:
    """What each connection of the pool thinks its tenant is."""
    query = "SELECT nullif(current_setting('steelyard.tenant', true), '')"
    return [await database.fetchval(query) for _ in range(database.size)]


async def test_no_connection_remembers_a_tenant_after_any_kind_of_work(world: World) -> None:
    account = await world.open_account(10)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert await uow.fetchval("SELECT current_setting('steelyard.tenant')") == "default"
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            await uow.fetchval("SELECT 1 / 0")
    await world.balance(account)
    await world.ledger().charge(account, 1)
    assert set(await setting(world.database)) == {None}


async def test_without_a_tenant_there_are_no_rows(world: World) -> None:
    await world.open_account(10)
    for table in ("account", "change", "operation", "book", "app_user", "tenant", "hold"):
        assert await world.database.fetchval(f"SELECT count(*) FROM steelyard.{table}") == 0, table


async def test_one_tenants_unit_of_work_sees_nothing_of_another(world: World) -> None:
    await world.open_account(10)
    await world.make_tenant(TenantId("acme"))
    async with world.database.unit_of_work(TenantId("acme")) as uow:
        assert await uow.fetchval("SELECT count(*) FROM steelyard.account WHERE kind = 'held'") == 0
        assert await uow.fetchval("SELECT count(*) FROM steelyard.change") == 0


async def test_the_product_cannot_write_a_money_table(world: World) -> None:
    await world.open_account(10)
    statements = [
        "UPDATE steelyard.account SET posted = 1000000",
        "DELETE FROM steelyard.change",
        "UPDATE steelyard.change SET amount = 5",
        "INSERT INTO steelyard.operation VALUES ('default', 'k', sha256('x'), 1, 1)",
        "UPDATE steelyard.hold SET status = 'open'",
        "DELETE FROM steelyard.audit",
        "TRUNCATE steelyard.change",
    ]
    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
                await uow.execute(statement)


async def test_not_even_the_owner_rewrites_history(world: World) -> None:
    await world.open_account(10)
    superuser = await world.as_superuser()
    for statement in (
        "UPDATE steelyard.change SET amount = 5",
        "DELETE FROM steelyard.change",
        "TRUNCATE steelyard.change",
    ):
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await superuser.execute(statement)
    await superuser.close()


async def test_connections_come_in_the_order_they_were_asked_for(fresh: FreshDatabase) -> None:
    database = await Database.open(fresh.app_url, pool_size=2)
    order: list[int] = []
    async with database.connection(), database.connection():
        pass  # both are open now: opening one takes longer than many turns

    async def take(number: int) -> None:
        async with database.connection() as connection:
            order.append(number)
            await connection.fetchval("SELECT 1")

    await asyncio.gather(*(take(number) for number in range(40)))
    assert order == list(range(40))
    assert database.in_use == 0
    await database.close()


async def test_a_cancelled_waiter_gives_its_turn_on(fresh: FreshDatabase) -> None:
    database = await Database.open(fresh.app_url, pool_size=2)
    async with database.connection(), database.connection():
        waiting = [asyncio.create_task(database.fetchval("SELECT 1")) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
    assert await asyncio.gather(*waiting[1:]) == [1, 1]
    assert database.in_use == 0
    await database.close()


async def test_no_free_connection_in_time_is_an_answer_not_a_hang(fresh: FreshDatabase) -> None:
    database = await Database.open(fresh.app_url, pool_size=2)
    async with database.connection(), database.connection():
        with pytest.raises(DatabaseUnavailable):
            await database.fetchval("SELECT 1")
    assert await database.fetchval("SELECT 1") == 1
    await database.close()


async def test_killed_connections_are_replaced(fresh: FreshDatabase, world: World) -> None:
    database = await Database.open(fresh.app_url, pool_size=3)
    superuser = await world.as_superuser()
    await superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )
    await superuser.close()
    answers = [await _try(database) for _ in range(4)]
    assert answers[-1] == 1
    assert database.in_use == 0
    await database.close()


async def _try(database: Database) -> object:
    try:
        return await database.fetchval("SELECT 1")
    except DatabaseUnavailable:
        return None


@pytest.mark.parametrize("text", ["", "a'b", "a b", "ä", "a;", 'a"'])
def test_a_tenant_that_could_leave_its_quotes_never_reaches_sql(text: str) -> None:
    with pytest.raises(ValueError, match="not a tenant id"):
        quoted(TenantId(text))
