"""Fills tables with histories, on the server itself: no young tables, no empty indexes.

Ours are full and true: every change chained to the one before it, every request with its key, the books'
side in batches of 500, so that `steelyard verify` would find them clean. Rows lie as a journal's do:
account after account, again and again. The peer's tables get the same numbers of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from steelyard.access.tenants import create_tenant
from steelyard.balances.store import open_book
from steelyard.cli.benchmarks.callers import Keys, Report
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.place import BenchDatabase
from steelyard.cli.benchmarks.row_lock import FUNCTION, TABLES
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Connection, Database, connect

FIRST_ACCOUNT = 1_000_001
START_BALANCE = 10**12
"""Minor units each account is recharged with: no charge of a benchmark runs short."""
BATCH = 500
POST_BATCH = 1_000
DEADLINE_S = 7_200.0

_STANDING = """
    CREATE TEMP TABLE standing AS
    SELECT i AS account_id, 0::bigint AS seq, 0::bigint AS amount, 0::bigint AS posted,
           decode(repeat('00', 32), 'hex') AS head
      FROM generate_series($1::bigint, $2::bigint) i
"""
# $1 tenant, $2 kind, $3 the book's account, $4 when, $5 layer. A charge takes 1 to 500 minor units.
_STEP = """
    CREATE TEMP TABLE step AS
    SELECT s.account_id, s.seq + 1 AS seq, v.amount, s.posted + v.amount AS posted,
           s.head AS previous, steelyard.chain_hash(s.head, $1::text, s.account_id, s.seq + 1, $2::text, v.amount, 0, s.posted + v.amount, 0,
                                $3::bigint, NULL, NULL, $4::timestamptz, NULL) AS head
      FROM standing s
     CROSS JOIN LATERAL (SELECT CASE $2::text WHEN 'recharge' THEN $6::bigint
                                ELSE -1 - (s.account_id * 7 + $5::bigint * 13) % 500 END AS amount) v
     ORDER BY s.account_id
"""
_CHANGES = """
    INSERT INTO steelyard.change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after,
                                  contra_id, posted_at, hash, previous_hash)
    SELECT $1::text, account_id, seq, $2::text, amount, 0, posted, 0, $3::bigint, $4::timestamptz, head, previous FROM step
"""
_OPERATIONS = """
    INSERT INTO steelyard.operation (tenant_id, key, body_hash, account_id, seq)
    SELECT $1::text, md5(account_id || '-' || seq), sha256(convert_to(account_id || '|' || amount, 'UTF8')), account_id, seq
      FROM step
"""
_BATCHES = """
    CREATE FUNCTION pg_temp.post_batches(p_tenant text, p_book bigint, p_at timestamptz, p_first bigint, p_size bigint)
        RETURNS void LANGUAGE plpgsql AS $$
    DECLARE v record; v_posted bigint; v_seq bigint; v_head bytea; v_previous bytea; v_details text;
    BEGIN
        SELECT a.posted, a.seq, a.head INTO v_posted, v_seq, v_head FROM steelyard.account a
         WHERE a.tenant_id = p_tenant AND a.id = p_book;
        FOR v IN SELECT -sum(s.amount)::bigint AS amount, count(*) AS postings FROM step s
                  GROUP BY (s.account_id - p_first) / p_size ORDER BY min(s.account_id) LOOP
            v_posted := v_posted + v.amount; v_seq := v_seq + 1; v_details := '{"postings":' || v.postings || '}';
            v_previous := v_head;
            v_head := steelyard.chain_hash(v_head, p_tenant, p_book, v_seq, 'batch', v.amount, 0, v_posted, 0, NULL, NULL,
                                           NULL, p_at, v_details);
            INSERT INTO steelyard.change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after,
                                          posted_at, details, hash, previous_hash)
            VALUES (p_tenant, p_book, v_seq, 'batch', v.amount, 0, v_posted, 0, p_at, v_details::json, v_head, v_previous);
        END LOOP;
        UPDATE steelyard.account a SET posted = v_posted, seq = v_seq, head = v_head, as_of = p_at
         WHERE a.tenant_id = p_tenant AND a.id = p_book;
    END $$
"""
_USERS = """
    INSERT INTO steelyard.app_user (tenant_id, id, created_at)
    SELECT $1::text, 'bench-' || account_id, $2::timestamptz FROM standing ORDER BY account_id
"""
_ACCOUNTS = """
    INSERT INTO steelyard.account (tenant_id, id, kind, user_id, currency, posted, seq, head, total_recharged, total_spent,
                                   opened_at, as_of)
    SELECT $1::text, account_id, 'held', 'bench-' || account_id, 'GBP', posted, seq, head, $3::bigint, $3::bigint - posted,
           $2::timestamptz, $2::timestamptz
      FROM standing ORDER BY account_id
"""
_INDEXES = """
    SELECT i.indexrelid::regclass::text AS name, c.conname AS constraint, i.indrelid::regclass::text AS of,
           coalesce('ALTER TABLE ' || i.indrelid::regclass || ' ADD CONSTRAINT ' || quote_ident(c.conname) || ' '
                    || pg_get_constraintdef(c.oid), pg_get_indexdef(i.indexrelid)) AS again
      FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
     WHERE i.indrelid IN ('steelyard.change'::regclass, 'steelyard.operation'::regclass)
"""
_POST = """
    SELECT p.r_outcome FROM (
        SELECT array_agg($1::text) AS tenant, array_agg(u.key) AS key,
               array_agg(sha256(convert_to(u.account || '|1', 'UTF8'))) AS hash, array_agg('charge'::text) AS kind,
               array_agg(u.account) AS account, array_agg(NULL::bigint) AS none, array_agg(1::bigint) AS amount,
               array_agg(NULL::timestamptz) AS never, array_agg(false) AS forced, array_agg(NULL::text) AS details
          FROM unnest($3::text[], $4::bigint[]) AS u (key, account)) b,
      LATERAL steelyard.post_batch($2::timestamptz, b.tenant, b.key, b.hash, b.kind, b.account, b.none, b.amount, b.none,
                                   b.never, b.forced, b.details) p
"""
_PEER_ROWS = """
    INSERT INTO peer.account (id, balance, seq)
    SELECT a.id, a.posted, a.seq FROM steelyard.account a WHERE a.kind = 'held' ORDER BY a.id;
    INSERT INTO peer.change (account_id, seq, amount, balance_after, posted_at)
    SELECT c.account_id, c.seq, c.amount, c.balance_after, c.posted_at FROM steelyard.change c
      JOIN peer.account a ON a.id = c.account_id;
    INSERT INTO peer.operation (key, body_hash, account_id, seq)
    SELECT o.key, o.body_hash, o.account_id, o.seq FROM steelyard.operation o;
"""


@dataclass(frozen=True, slots=True)
class Seeded:
    """What was filled in: accounts `FIRST_ACCOUNT` and on, `changes` of them all."""

    accounts: range
    changes: int


async def seed_ledger(
    database: BenchDatabase, *, accounts: int, layers: int, report: Report
) -> Seeded:
    """Open accounts with a history of `layers` changes each: a recharge, then charges."""
    await open_tenant(database)
    connection = await connect(database.admin_url)
    try:
        await connection.execute("SET work_mem = '128MB'; SET maintenance_work_mem = '256MB'")
        indexes = await connection.fetch(_INDEXES)
        for index in indexes:
            await _run(connection, _drop(index))
        last = FIRST_ACCOUNT + accounts - 1
        await connection.execute(_STANDING, FIRST_ACCOUNT, last)
        await connection.execute(_BATCHES)
        at = datetime.now(UTC) - timedelta(days=1)
        for layer in range(1, layers + 1):
            at += timedelta(seconds=1)
            async with connection.transaction():
                await _add_layer(connection, layer, at)
            report(f"seeded {layer * accounts:,} of {layers * accounts:,} changes")
        await connection.execute(_USERS, DEFAULT_TENANT, at, timeout=DEADLINE_S)
        await connection.execute(_ACCOUNTS, DEFAULT_TENANT, at, START_BALANCE, timeout=DEADLINE_S)
        await _run(
            connection,
            f"SELECT setval(pg_get_serial_sequence('steelyard.account', 'id'), {last + 1})",
        )
        for index in indexes:
            await _run(connection, index["again"])
    finally:
        await connection.close(timeout=30)
    await settle_tables(database)
    return Seeded(range(FIRST_ACCOUNT, last + 1), accounts * layers)


async def post_charges(database: BenchDatabase, accounts: Sequence[int]) -> None:
    """Charge one minor unit from each account in turn, by the product's own function, 1,000 in a call.

    Raises:
        BenchmarkUnsound: One was refused.
    """
    keys = Keys()
    connection = await connect(database.admin_url)
    try:
        for start in range(0, len(accounts), POST_BATCH):
            some = accounts[start : start + POST_BATCH]
            outcomes = await connection.fetchval(
                _POST,
                DEFAULT_TENANT,
                datetime.now(UTC),
                [keys.next() for _ in some],
                list(some),
                timeout=DEADLINE_S,
            )
            refused = [one for one in outcomes if one != "posted"]
            if refused:
                raise BenchmarkUnsound(side="seeding", problem=f"a charge was {refused[0]}")
    finally:
        await connection.close(timeout=30)


async def seed_peer(database: BenchDatabase) -> None:
    """Make the peer's tables with the same accounts, balances, changes and keys as ours have now."""
    connection = await connect(database.admin_url)
    try:
        await connection.execute(TABLES + FUNCTION)
        await connection.execute(_PEER_ROWS, timeout=DEADLINE_S)
    finally:
        await connection.close(timeout=30)
    await settle_tables(database)


async def settle_tables(database: BenchDatabase) -> None:
    """Let the server know its tables and write out what waits, so that no side pays for the seeding."""
    connection = await connect(database.admin_url)
    try:
        await _run(connection, "VACUUM ANALYZE")
        await _run(connection, "CHECKPOINT")
    finally:
        await connection.close(timeout=30)


async def open_tenant(database: BenchDatabase) -> None:
    """Make the default tenant with a book in GBP."""
    product = await Database.open(database.app_url, pool_size=2)
    now = datetime.now(UTC)
    try:
        await create_tenant(product, DEFAULT_TENANT, name="Benchmark", time_zone="UTC", now=now)
        async with product.unit_of_work(DEFAULT_TENANT) as uow:
            await open_book(uow, find_currency("GBP"), now=now)
    finally:
        await product.close()


async def _add_layer(connection: Connection, layer: int, at: datetime) -> None:
    kind, column = ("recharge", "funding_id") if layer == 1 else ("charge", "revenue_id")
    book = await connection.fetchval(
        f"SELECT {column} FROM steelyard.book WHERE tenant_id = $1", DEFAULT_TENANT
    )
    shape = (DEFAULT_TENANT, kind, book, at)
    await connection.execute(_STEP, *shape, layer, START_BALANCE, timeout=DEADLINE_S)
    await connection.execute(_CHANGES, *shape, timeout=DEADLINE_S)
    await connection.execute(_OPERATIONS, DEFAULT_TENANT, timeout=DEADLINE_S)
    await connection.fetchval(
        "SELECT pg_temp.post_batches($1, $2, $3, $4, $5)",
        DEFAULT_TENANT,
        book,
        at,
        FIRST_ACCOUNT,
        BATCH,
        timeout=DEADLINE_S,
    )
    await connection.execute("DROP TABLE standing; ALTER TABLE step RENAME TO standing")


def _drop(index: asyncpg.Record) -> str:
    if index["constraint"] is not None:
        return f'ALTER TABLE {index["of"]} DROP CONSTRAINT "{index["constraint"]}"'
    return f"DROP INDEX {index['name']}"


async def _run(connection: Connection, statement: str) -> None:
    await connection.execute(statement, timeout=DEADLINE_S)
