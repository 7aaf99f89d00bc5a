"""Fills the tables of syncs: users with accounts at a core bank, targets that have been moved before, their runs.

Nothing is young: each target has had its due time moved, each user has a run of the past. The peer's table gets the
same number of rows, moved as often, and as many runs.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from steelyard.cli.benchmarks.callers import Report
from steelyard.cli.benchmarks.place import BenchDatabase
from steelyard.cli.benchmarks.seed import DEADLINE_S, open_tenant, settle_tables
from steelyard.cli.benchmarks.sync_peer import TABLES
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.providers.contract import Limits
from steelyard.runtime.database import Database, connect
from steelyard.sync.enroll import allow_requests
from steelyard.sync.model import BALANCES

PROVIDER = "t24"
FIRST_NUMBER = 1_000_000_001
NO_LIMIT = Limits(requests_per_s=1e6, in_flight=1_000_000)
"""So that no budget bounds what the tables can do."""

_USERS = """
    INSERT INTO steelyard.app_user (tenant_id, id, context, created_at)
    SELECT $1::text, 'bench-' || i, 'MOBILE_BANKING', $3::timestamptz FROM generate_series(1, $2::bigint) i;
"""
_ACCOUNTS = """
    INSERT INTO steelyard.account (tenant_id, id, kind, user_id, currency, is_primary, opened_at, as_of)
    SELECT $1::text, 1000000 + i, 'mirrored', 'bench-' || i, 'GBP', true, $3::timestamptz, $3::timestamptz
      FROM generate_series(1, $2::bigint) i
"""
_MIRRORED = """
    INSERT INTO steelyard.mirrored_account (tenant_id, account_id, user_id, provider, number)
    SELECT $1::text, 1000000 + i, 'bench-' || i, $3::text, ($4::bigint + i - 1)::text FROM generate_series(1, $2::bigint) i
"""
_RUNS = """
    INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, attempts, progress, result, created_at,
                               started_at, finished_at)
    SELECT $1::text, nextval('steelyard.run_id'), $4::text, 'bench-' || i, 0, 'completed', 1, 100, '{"accounts":1,"requests":1}',
           $3::timestamptz, $3::timestamptz, $3::timestamptz
      FROM generate_series(1, $2::bigint) i
"""
# In an order that is not that of the names: neighbours in time are no neighbours on disk.
_TARGETS = """
    INSERT INTO steelyard.sync_target (tenant_id, kind, subject, provider, due_at, lease_token, last_result, last_success_at)
    SELECT $1::text, $4::text, 'bench-' || i, $5::text, $3::timestamptz - random() * interval '1 day', 1, 'ok', $3::timestamptz
      FROM generate_series(1, $2::bigint) i
"""
# $2 how many are due, each at its own moment of the last 5 minutes; the others tomorrow.
_MOVE = """
    UPDATE steelyard.sync_target t
       SET due_at = CASE WHEN substr(t.subject, 7)::bigint <= $2::bigint THEN $3::timestamptz - random() * interval '5 minutes'
                         ELSE $3::timestamptz + interval '1 day' + random() * interval '5 minutes' END
     WHERE t.tenant_id = $1::text
"""
_PEER_ROWS = """
    INSERT INTO peer.run (kind, subject, state, attempts, result, created_at, finished_at)
    SELECT r.kind, r.subject, r.state, r.attempts, r.result, r.created_at, r.finished_at FROM steelyard.run r;
    INSERT INTO peer.target (kind, subject, priority, due_at, lease_token, last_result, last_success_at)
    SELECT t.kind, t.subject, t.priority, t.due_at - interval '1 day', t.lease_token, t.last_result, t.last_success_at
      FROM steelyard.sync_target t;
    UPDATE peer.target p SET due_at = p.due_at + interval '1 day';
"""


@dataclass(frozen=True, slots=True)
class SyncSeed:
    """What is filled in: so many users with a target each, of which so many are due."""

    targets: int
    due: int
    limits: Limits = NO_LIMIT


async def seed_sync(database: BenchDatabase, seed: SyncSeed, *, report: Report) -> None:
    """Fill a database of the benchmark and let the server settle."""
    report(f"seeding {seed.targets:,} targets, {seed.due:,} of them due")
    await open_tenant(database)
    now = datetime.now(UTC)
    connection = await connect(database.admin_url)
    try:
        await connection.execute("SET work_mem = '128MB'; SET maintenance_work_mem = '256MB'")
        # The rows are consistent by how they are made; looking each parent up would take longer than all the rest.
        await connection.execute("SET session_replication_role = replica")
        for statement, more in (
            (_USERS, (now,)),
            (_ACCOUNTS, (now,)),
            (_MIRRORED, (PROVIDER, FIRST_NUMBER)),
            (_RUNS, (now, BALANCES)),
            (_TARGETS, (now, BALANCES, PROVIDER)),
        ):
            await connection.execute(
                statement, DEFAULT_TENANT, seed.targets, *more, timeout=DEADLINE_S
            )
        await connection.execute(_MOVE, DEFAULT_TENANT, seed.due, now, timeout=DEADLINE_S)
    finally:
        await connection.close(timeout=30)
    await _allow(database, seed.limits)
    await settle_tables(database)


async def seed_sync_peer(database: BenchDatabase, *, report: Report) -> None:
    """Make the peer's tables with as many targets and runs as ours have now."""
    report("seeding the peer's tables")
    connection = await connect(database.admin_url)
    try:
        await connection.execute(TABLES)
        await connection.execute(_PEER_ROWS, timeout=DEADLINE_S)
    finally:
        await connection.close(timeout=30)
    await settle_tables(database)


async def _allow(database: BenchDatabase, limits: Limits) -> None:
    product = await Database.open(database.app_url, pool_size=1)
    try:
        async with product.unit_of_work(DEFAULT_TENANT) as uow:
            await allow_requests(uow, PROVIDER, limits, now=datetime.now(UTC))
    finally:
        await product.close()
