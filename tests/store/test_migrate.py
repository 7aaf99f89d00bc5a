"""A new schema is the same, whichever way it was made."""

import asyncio
import secrets

from steelyard.runtime.database import connect
from steelyard.runtime.migrate import find_revision, make_schema, newest_revision, run_alembic
from steelyard.runtime.provision import make_roles
from tests.world import drop_database, with_database

_LOOK = (
    """SELECT c.relname, c.relkind::text, c.relowner::regrole::text, c.relacl::text, c.relrowsecurity, c.relforcerowsecurity
         FROM pg_class c WHERE c.relnamespace = 'steelyard'::regnamespace ORDER BY 1""",
    """SELECT a.attrelid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation,
              pg_get_expr(d.adbin, d.adrelid)
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'steelyard'::regnamespace AND a.attnum > 0 ORDER BY 1, a.attnum""",
    """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'steelyard'::regnamespace ORDER BY 1, 2""",
    "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'steelyard' ORDER BY 1, 2",
    """SELECT p.oid::regprocedure::text, p.proowner::regrole::text, p.proacl::text, p.prosecdef, pg_get_functiondef(p.oid)
         FROM pg_proc p WHERE p.pronamespace = 'steelyard'::regnamespace ORDER BY 1""",
    "SELECT tablename, policyname, qual, with_check, roles::text FROM pg_policies WHERE schemaname = 'steelyard' ORDER BY 1, 2",
    """SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger
        WHERE NOT tgisinternal ORDER BY 1, 2""",
    "SELECT version_num FROM steelyard.alembic_version",
)


async def look(url: str) -> list[list[tuple[object, ...]]]:
    """Return everything the catalogs say of our schema."""
    connection = await connect(url)
    try:
        return [[tuple(row) for row in await connection.fetch(query)] for query in _LOOK]
    finally:
        await connection.close()


async def make_empty(admin_url: str, name: str) -> str:
    """Create a database with the roles and the empty schema, and return its address."""
    connection = await connect(admin_url)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    url = with_database(admin_url, name)
    await make_roles(url, login="steelyard_migrate_login", password="only on a test server")
    return url


async def test_alembic_and_the_short_way_make_the_same_schema(admin_url: str) -> None:
    names = [f"sy_migrate_{secrets.token_hex(4)}" for _ in range(2)]
    try:
        short, long = [await make_empty(admin_url, name) for name in names]
        await make_schema(short)
        await asyncio.to_thread(run_alembic, long)
        made, expected = await look(short), await look(long)
        assert [len(rows) > 0 for rows in made] == [True] * len(_LOOK)
        assert made == expected
        assert await find_revision(short) == newest_revision()
    finally:
        for name in names:
            await drop_database(admin_url, name)


_HISTORY = """
    INSERT INTO steelyard.change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after,
                                  posted_at, hash)
    SELECT t, a, s, 'recharge', 1, 0, s, 0, '2026-01-01', sha256(convert_to(concat_ws('|', t, a, s), 'UTF8'))
      FROM unnest(ARRAY['acme', 'default']) t, generate_series(1, 3) a, generate_series(1, 4) s
"""
_LINKS = """
    SELECT count(*), count(*) FILTER (WHERE c.previous_hash = CASE c.seq WHEN 1 THEN decode(repeat('00', 32), 'hex')
        ELSE sha256(convert_to(concat_ws('|', c.tenant_id, c.account_id, c.seq - 1), 'UTF8')) END) FROM steelyard.change c
"""


async def test_a_history_from_before_is_linked_and_all_functions_are_the_newest(
    admin_url: str,
) -> None:
    names = [f"sy_migrate_{secrets.token_hex(4)}" for _ in range(2)]
    try:
        new, old = [await make_empty(admin_url, name) for name in names]
        await make_schema(new)
        await asyncio.to_thread(run_alembic, old, to="0008_sync_control")
        connection = await connect(old)
        await connection.execute(_HISTORY)
        await asyncio.to_thread(run_alembic, old)
        assert tuple(await connection.fetchrow(_LINKS) or ()) == (24, 24)
        await connection.close()
        assert await look(old) == await look(new)
    finally:
        for name in names:
            await drop_database(admin_url, name)


async def test_two_who_make_the_schema_at_once_make_it_once(admin_url: str) -> None:
    name = f"sy_migrate_{secrets.token_hex(4)}"
    try:
        url = await make_empty(admin_url, name)
        await asyncio.gather(make_schema(url), make_schema(url), make_schema(url))
        assert await find_revision(url) == newest_revision()
    finally:
        await drop_database(admin_url, name)
