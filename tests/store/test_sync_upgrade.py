"""Users whose target was removed before this release are remembered by it, whoever runs the revision."""

import asyncio
import secrets

from steelyard.runtime.database import connect
from steelyard.runtime.migrate import run_alembic
from tests.store.test_migrate import make_empty
from tests.world import drop_database

FILL = """
    SET session_replication_role = replica;
    INSERT INTO steelyard.tenant (id, name, created_at) VALUES ('acme', 'Acme', now());
    INSERT INTO steelyard.app_user (tenant_id, id, created_at) VALUES ('acme', 'kept', now()), ('acme', 'gone', now());
    INSERT INTO steelyard.account (tenant_id, id, kind, user_id, currency, opened_at, as_of)
    VALUES ('acme', 901, 'mirrored', 'kept', 'GBP', now(), now()), ('acme', 902, 'mirrored', 'gone', 'GBP', now(), now());
    INSERT INTO steelyard.mirrored_account (tenant_id, account_id, user_id, provider, number)
    VALUES ('acme', 901, 'kept', 't24', '1'), ('acme', 902, 'gone', 't24', '2');
    INSERT INTO steelyard.sync_target (tenant_id, kind, subject, provider, due_at)
    VALUES ('acme', 'update-balances', 'kept', 't24', now());
"""


async def test_users_without_a_target_are_remembered_and_the_walls_stand_again(
    admin_url: str,
) -> None:
    name = f"sy_migrate_{secrets.token_hex(4)}"
    try:
        url = await make_empty(admin_url, name)
        await asyncio.to_thread(run_alembic, url, to="0007_schedules")
        connection = await connect(url)
        await connection.execute(FILL)
        await asyncio.to_thread(run_alembic, url)
        rows = await connection.fetch(
            "SELECT tenant_id, provider, kind, subject FROM steelyard.sync_removed"
        )
        forced = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'steelyard'::regnamespace AND relforcerowsecurity "
            "AND relname IN ('sync_target', 'sync_removed', 'mirrored_account')"
        )
        await connection.close()
        assert [tuple(row) for row in rows] == [("acme", "t24", "update-balances", "gone")]
        assert len(forced) == 3
    finally:
        await drop_database(admin_url, name)
