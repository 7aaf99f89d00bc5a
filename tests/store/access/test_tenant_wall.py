"""Two tenants in one database: neither sees, changes or guesses anything of the other."""

import asyncpg
import pytest

from steelyard.access import api_keys, audit, tenants, users
from steelyard.access.guard import EXCEPTIONS, TENANT_TABLES
from steelyard.access.model import Role
from steelyard.access.users import NewUser, UserEdit
from steelyard.core.errors import NotFound
from steelyard.core.ids import DEFAULT_TENANT, TenantId, UserId
from steelyard.mirror.model import NewMirroredAccount
from steelyard.providers.contract import Limits
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Connection, Database, UnitOfWork
from steelyard.sync.enroll import Enrollment, allow_requests, enroll_accounts
from steelyard.sync.raise_target import queue_sync
from tests.store.access.access_kit import ACME, ZETA, admin_of, behind_the_wall
from tests.unit.access.token_kit import NOW
from tests.world import LOGIN, FreshDatabase, World

MONEY_TABLES = ("account", "change", "operation", "hold", "book", "tenant", "mirrored_account")

WORK = (
    """
    INSERT INTO steelyard.sync_removed (tenant_id, provider, kind, subject, removed_at)
    VALUES ($1, 'bank', 'update-balances', '43', $2)
    """,
    """
    INSERT INTO steelyard.job (tenant_id, run_id, kind, subject, arguments_hash, priority, state, due_at, look_at, attempts_max)
    SELECT $1, r.id, r.kind, r.subject, '\\x00', 0, 'pending', $2, $2, 3 FROM steelyard.run r WHERE r.tenant_id = $1
    """,
    """
    INSERT INTO steelyard.schedule (tenant_id, name, family, kind, subject, every_s, counted_at, edited_at, edited_by)
    VALUES ($1, 'nightly', 'own', 'verify', 'all', 3600, $2, $2, 'boss')
    """,
    """
    INSERT INTO steelyard.schedule_tick (tenant_id, schedule, planned_for, ticked_at, run_id) VALUES ($1, 'nightly', $2, $2, 1)
    """,
)
"""Rows that only workers make."""


async def fill(world: World, tenant: TenantId) -> None:
    """Give a tenant a row in every table that the product writes in ordinary work."""
    account = await world.open_account(1000, tenant=tenant, user="42")
    ledger = world.ledger(tenant)
    await ledger.hold(account, 10)
    await ledger.request_topup(account, 5, by="42")
    async with world.database.unit_of_work(tenant) as uow:
        named = UserEdit(display_name=f"User of {tenant}")
        await users.change_user(uow, UserId("42"), named, now=NOW)
        order = api_keys.KeyOrder("till", Role.SERVICE)
        await api_keys.create_api_key(uow, order, created_by="boss", now=NOW)
        await audit.record_audit(uow, admin_of(tenant), action="test.fill", now=NOW)
        mirrored = NewMirroredAccount(UserId("42"), "bank", "1", find_currency("GBP"))
        await enroll_accounts(uow, [mirrored], Enrollment("bank", None), now=NOW)
        await allow_requests(uow, "bank", Limits(1.0, 1), now=NOW)
        await queue_sync(uow, UserId("42"), "bank", now=NOW)
        for statement in WORK:
            await uow.execute(statement, tenant, NOW)


@pytest.fixture
async def filled(world: World) -> Database:
    """Both tenants with a row in every table."""
    for tenant in (ACME, ZETA):
        await world.make_tenant(tenant)
        await fill(world, tenant)
    return world.database


async def count_by_tenant(reader: UnitOfWork | Connection, table: str) -> dict[str, int]:
    """Rows of each tenant, as far as the reader sees them; the default tenant of the kit left out."""
    column = TENANT_TABLES[table]
    rows = await reader.fetch(
        f"SELECT {column} AS tenant, count(*) AS rows FROM steelyard.{table} GROUP BY 1"
    )
    return {row["tenant"]: row["rows"] for row in rows if row["tenant"] != "default"}


FILLED = sorted(TENANT_TABLES.keys() - {"contra_pending", "checkpoint"})


async def test_every_table_shows_a_tenant_its_own_rows_only(
    filled: Database, fresh: FreshDatabase
) -> None:
    async with behind_the_wall(fresh.admin_url) as admin:
        counts = {table: await count_by_tenant(admin, table) for table in FILLED}
    for tenant in (ACME, ZETA):
        async with filled.unit_of_work(tenant) as uow:
            for table in FILLED:
                assert counts[table].keys() == {"acme", "zeta"}, table
                assert await count_by_tenant(uow, table) == {tenant: counts[table][tenant]}, table


async def test_without_a_tenant_no_table_shows_a_row(filled: Database) -> None:
    for table in TENANT_TABLES:
        assert await filled.fetchval(f"SELECT count(*) FROM steelyard.{table}") == 0, table
        # After a transaction that had one, the setting is empty, not unset.
        async with filled.unit_of_work(ACME):
            pass
        assert await filled.fetchval(f"SELECT count(*) FROM steelyard.{table}") == 0, table


async def test_the_owner_of_the_tables_sees_no_row_without_a_tenant(
    filled: Database, fresh: FreshDatabase
) -> None:
    async with behind_the_wall(fresh.admin_url) as admin:
        await admin.execute("SET ROLE steelyard_owner")
        for table in TENANT_TABLES:
            assert await admin.fetchval(f"SELECT count(*) FROM steelyard.{table}") == 0, table


async def test_the_ledgers_role_sees_every_tenant(filled: Database, fresh: FreshDatabase) -> None:
    async with behind_the_wall(fresh.admin_url) as admin:
        counts = {table: await count_by_tenant(admin, table) for table in FILLED}
        await admin.execute("SET ROLE steelyard_ledger")
        for table in FILLED:
            assert await count_by_tenant(admin, table) == counts[table], table
            assert counts[table].keys() == {"acme", "zeta"}, table


async def test_nobody_has_the_ledgers_rights_by_membership(fresh: FreshDatabase) -> None:
    async with behind_the_wall(fresh.admin_url) as admin:
        found = await admin.fetch(
            "SELECT r.rolname::text AS role, pg_has_role(r.oid, 'steelyard_ledger', 'MEMBER') AS is_member,"
            "       pg_has_role(r.oid, 'steelyard_ledger', 'USAGE') AS inherits"
            "  FROM pg_roles r WHERE r.rolname = ANY ($1) ORDER BY 1",
            ["steelyard_app", "steelyard_owner", LOGIN],
        )
    assert [tuple(row) for row in found] == [
        ("steelyard_app", False, False),
        ("steelyard_owner", True, False),
        (LOGIN, False, False),
    ]


async def test_every_table_of_the_schema_is_tried_here(fresh: FreshDatabase) -> None:
    async with behind_the_wall(fresh.admin_url) as admin:
        rows = await admin.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')"
            " AND relnamespace = 'steelyard'::regnamespace"
        )
    assert {row["relname"] for row in rows} == TENANT_TABLES.keys() | EXCEPTIONS.keys()


@pytest.mark.parametrize(
    "table", ["app_user", "api_key", "audit", "topup", "sync_target", "run", "provider_budget"]
)
async def test_rows_of_another_tenant_cannot_be_written(filled: Database, table: str) -> None:
    async with filled.unit_of_work(ACME) as uow:
        row = await uow.fetchrow(f"SELECT * FROM steelyard.{table} LIMIT 1")
    assert row is not None
    foreign = {**dict(row), "tenant_id": "zeta"}
    if isinstance(foreign.get("id"), str):
        foreign["id"] = "foreign-1"
    if table == "audit":
        del foreign["id"]  # the database numbers it
    places = ", ".join(f"${at}" for at in range(1, len(foreign) + 1))
    statement = f"INSERT INTO steelyard.{table} ({', '.join(foreign)}) VALUES ({places})"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with filled.unit_of_work(ACME) as uow:
            await uow.execute(statement, *foreign.values())


@pytest.mark.parametrize(
    "table", ["app_user", "api_key", "topup", "sync_target", "run", "provider_budget"]
)
async def test_rows_cannot_be_handed_to_another_tenant_or_taken_from_it(
    filled: Database, table: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with filled.unit_of_work(ACME) as uow:
            await uow.execute(f"UPDATE steelyard.{table} SET tenant_id = 'zeta'")
    async with filled.unit_of_work(ACME) as uow:
        took = await uow.execute(
            f"UPDATE steelyard.{table} SET tenant_id = 'acme' WHERE tenant_id = 'zeta'"
        )
    assert took == "UPDATE 0"


@pytest.mark.parametrize("table", MONEY_TABLES)
@pytest.mark.parametrize("verb", ["INSERT", "UPDATE", "DELETE", "TRUNCATE"])
async def test_the_product_itself_cannot_write_money(
    filled: Database, table: str, verb: str
) -> None:
    column = TENANT_TABLES[table]
    statement = {
        "INSERT": f"INSERT INTO steelyard.{table} SELECT * FROM steelyard.{table}",
        "UPDATE": f"UPDATE steelyard.{table} SET {column} = {column}",
        "DELETE": f"DELETE FROM steelyard.{table}",
        "TRUNCATE": f"TRUNCATE steelyard.{table}",
    }[verb]
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        async with filled.unit_of_work(ACME) as uow:
            await uow.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE steelyard.audit SET actor = 'nobody'",
        "DELETE FROM steelyard.audit",
        "TRUNCATE steelyard.audit",
    ],
)
async def test_the_audit_record_cannot_be_changed(
    filled: Database, fresh: FreshDatabase, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with filled.unit_of_work(ACME) as uow:
            await uow.execute(statement)
    # Not even by the owner of the tables: a trigger refuses.
    async with behind_the_wall(fresh.admin_url) as admin:
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await admin.execute(statement)


async def test_the_product_cannot_become_a_stronger_role(
    filled: Database, fresh: FreshDatabase
) -> None:
    async with behind_the_wall(fresh.admin_url) as admin:
        administrator = await admin.fetchval("SELECT quote_ident(session_user)")
    for role in ("steelyard_owner", "steelyard_ledger", administrator):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with filled.unit_of_work(ACME) as uow:
                await uow.execute(f"SET ROLE {role}")


async def test_the_product_cannot_take_the_wall_down(filled: Database) -> None:
    for statement in (
        "ALTER TABLE steelyard.account DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant_wall ON steelyard.account",
        "CREATE TABLE steelyard.mine (id int)",
        "ALTER TABLE steelyard.audit DISABLE TRIGGER ALL",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with filled.unit_of_work(ACME) as uow:
                await uow.execute(statement)


async def test_every_list_shows_the_tenant_its_own(filled: Database) -> None:
    for tenant in (ACME, ZETA):
        async with filled.unit_of_work(tenant) as uow:
            keys = await api_keys.list_api_keys(uow, after=None, limit=10)
            lines = await audit.list_audit(uow, before=None, limit=10)
            found = await users.list_users(uow, after=None, limit=10)
            own = await tenants.get_tenant(uow)
        assert [(user.tenant, user.display_name) for user in found] == [
            (tenant, f"User of {tenant}")
        ]
        assert [key.tenant for key in keys] == [tenant]
        assert [line.action for line in lines] == ["test.fill"]
        assert own.id == tenant


async def test_same_user_id_in_two_tenants_is_two_users(filled: Database) -> None:
    async with filled.unit_of_work(ACME) as uow:
        await users.change_user(uow, UserId("42"), UserEdit(display_name="New"), now=NOW)
        assert (await users.get_user(uow, UserId("42"))).display_name == "New"
    async with filled.unit_of_work(ZETA) as uow:
        assert (await users.get_user(uow, UserId("42"))).display_name == "User of zeta"
        await users.create_user(uow, NewUser(UserId("only-zeta")), now=NOW)
    with pytest.raises(NotFound):
        async with filled.unit_of_work(ACME) as uow:
            await users.get_user(uow, UserId("only-zeta"))


async def test_tenant_list_of_the_operator_names_both(filled: Database) -> None:
    listed = [tenant.id for tenant in await tenants.list_tenants(filled)]
    assert listed == [ACME, DEFAULT_TENANT, ZETA]
    assert not await tenants.create_tenant(filled, ACME, name="Other", now=NOW)
    async with filled.unit_of_work(ACME) as uow:
        assert (await tenants.get_tenant(uow)).name == "acme"
