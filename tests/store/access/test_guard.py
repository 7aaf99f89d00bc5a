"""The process does not start where the wall between tenants would not hold."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from steelyard.access.errors import UnsafeDatabase
from steelyard.access.guard import check_database
from steelyard.runtime.database import Database
from steelyard.runtime.provision import url_for_login
from tests.store.access.access_kit import behind_the_wall
from tests.world import LOGIN, FreshDatabase


@asynccontextmanager
async def login_with(
    fresh: FreshDatabase, attributes: str, *grants: str
) -> AsyncIterator[Database]:
    """A role of the test's own with attributes and memberships."""
    name, password = f"sy_probe_{secrets.token_hex(4)}", secrets.token_hex(8)
    async with behind_the_wall(fresh.admin_url) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' {attributes}")
        for group in ("steelyard_app", *grants):
            await admin.execute(f"GRANT {group} TO {name}")
        try:
            opened = await Database.open(url_for_login(fresh.admin_url, name, password))
            yield opened
            await opened.close()
        finally:
            await admin.execute(f"DROP OWNED BY {name}")
            await admin.execute(f"DROP ROLE {name}")


async def refusal(database: Database) -> str:
    with pytest.raises(UnsafeDatabase) as refused:
        await check_database(database)
    assert "refusing to start" in str(refused.value)
    return str(refused.value)


async def test_provisioned_database_passes(database: Database) -> None:
    assert (await check_database(database)).role == LOGIN


async def test_superuser_is_refused(fresh: FreshDatabase) -> None:
    opened = await Database.open(fresh.admin_url)
    assert "is a superuser" in await refusal(opened)
    await opened.close()


@pytest.mark.parametrize(
    ("attributes", "grants", "what"),
    [
        ("BYPASSRLS", (), "has BYPASSRLS"),
        ("CREATEROLE", (), "has CREATEROLE"),
        ("", ("steelyard_owner",), "is a member of steelyard_ledger, steelyard_owner"),
        ("", ("steelyard_ledger",), "is a member of steelyard_ledger"),
        ("NOINHERIT", ("steelyard_ledger",), "is a member of steelyard_ledger"),
    ],
)
async def test_role_that_could_pass_the_wall_is_refused(
    fresh: FreshDatabase, attributes: str, grants: tuple[str, ...], what: str
) -> None:
    async with login_with(fresh, attributes, *grants) as opened:
        assert what in await refusal(opened)


async def test_owner_of_a_table_is_refused(fresh: FreshDatabase) -> None:
    async with login_with(fresh, "") as opened, behind_the_wall(fresh.admin_url) as admin:
        role = await opened.fetchval("SELECT current_user")
        await admin.execute(f"GRANT CREATE ON SCHEMA steelyard TO {role}")
        await admin.execute(f"ALTER TABLE steelyard.topup OWNER TO {role}")
        assert "owns topup" in await refusal(opened)
        await admin.execute("ALTER TABLE steelyard.topup OWNER TO steelyard_owner")


async def test_ledger_that_can_log_in_is_refused(database: Database, fresh: FreshDatabase) -> None:
    async with behind_the_wall(fresh.admin_url) as admin:
        await admin.execute("ALTER ROLE steelyard_ledger LOGIN")
        try:
            assert "'steelyard_ledger' can log in" in await refusal(database)
        finally:
            await admin.execute("ALTER ROLE steelyard_ledger NOLOGIN")
    await check_database(database)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("ALTER TABLE steelyard.audit NO FORCE ROW LEVEL SECURITY", "audit does not force"),
        ("ALTER TABLE steelyard.change DISABLE ROW LEVEL SECURITY", "change does not force"),
        ("DROP POLICY tenant_wall ON steelyard.app_user", "policies of steelyard.app_user"),
        ("CREATE POLICY also ON steelyard.hold USING (true)", "policies of steelyard.hold"),
        ("DROP POLICY ledger_door ON steelyard.hold", "policies of steelyard.hold"),
        ("ALTER POLICY ledger_door ON steelyard.hold TO PUBLIC", "policies of steelyard.hold"),
        (
            "ALTER POLICY ledger_door ON steelyard.hold TO steelyard_ledger, steelyard_app",
            "policies of steelyard.hold",
        ),
        (
            "ALTER POLICY ledger_door ON steelyard.hold USING (amount > 0)",
            "policies of steelyard.hold",
        ),
        (
            "ALTER POLICY tenant_wall ON steelyard.account USING (true)",
            "policies of steelyard.account",
        ),
        (
            "ALTER POLICY tenant_wall ON steelyard.account WITH CHECK (true)",
            "policies of steelyard.account",
        ),
        (
            "ALTER POLICY tenant_wall ON steelyard.book TO steelyard_app",
            "policies of steelyard.book",
        ),
        ("CREATE TABLE steelyard.extra (id int)", "extra is neither"),
        ("CREATE VIEW steelyard.seen AS SELECT * FROM steelyard.account", "seen reads with"),
        (
            "CREATE MATERIALIZED VIEW steelyard.kept AS SELECT * FROM steelyard.account",
            "kept reads with",
        ),
        ("DROP TABLE steelyard.topup", "lacks topup"),
        ("GRANT UPDATE ON steelyard.account TO steelyard_app", "UPDATE account"),
        ("GRANT UPDATE (posted) ON steelyard.account TO steelyard_app", "UPDATE account"),
        ("GRANT INSERT ON steelyard.change TO PUBLIC", "INSERT change"),
        ("GRANT DELETE, TRUNCATE ON steelyard.audit TO steelyard_app", "DELETE audit"),
    ],
)
async def test_damaged_wall_is_refused(
    database: Database, fresh: FreshDatabase, damage: str, what: str
) -> None:
    await check_database(database)
    async with behind_the_wall(fresh.admin_url) as admin:
        await admin.execute(damage)
    assert what in await refusal(database)


async def test_view_with_the_callers_rights_and_restrictive_policy_pass(
    database: Database, fresh: FreshDatabase
) -> None:
    async with behind_the_wall(fresh.admin_url) as admin:
        await admin.execute(
            "CREATE VIEW steelyard.seen WITH (security_invoker = true) AS SELECT * FROM steelyard.account"
        )
        await admin.execute(
            "CREATE POLICY less ON steelyard.hold AS RESTRICTIVE USING (amount > 0)"
        )
    await check_database(database)


async def test_search_path_of_the_role_does_not_matter(fresh: FreshDatabase) -> None:
    async with login_with(fresh, "") as opened, behind_the_wall(fresh.admin_url) as admin:
        role = await opened.fetchval("SELECT current_user")
        await admin.execute(f"ALTER ROLE {role} SET search_path = steelyard, public")
        second = await Database.open(opened.url)
        assert await second.fetchval("SHOW search_path") == "steelyard, public"
        await check_database(second)
        assert await second.fetchval("SHOW search_path") == "steelyard, public"
        await second.close()
