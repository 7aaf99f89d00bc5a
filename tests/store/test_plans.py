"""What a charge costs does not grow with the account's history."""

import json
from datetime import UTC, datetime

from steelyard.core.ids import AccountId
from steelyard.runtime.database import Connection
from tests.world import World

LONG = 500_000

# Straight into the tables, as no product code can: what matters here is how many rows there are.
FILL = """
SET session_replication_role = replica;
INSERT INTO steelyard.change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after, posted_at, hash, previous_hash)
SELECT 'default', {account}, s, 'recharge', 1, 0, s, 0, now(), '\\x00', '\\x00' FROM generate_series(2, {rows}) s;
INSERT INTO steelyard.operation (tenant_id, key, body_hash, account_id, seq)
SELECT 'default', 'old-' || md5(s::text), sha256('x'), {account}, s FROM generate_series(2, {rows}) s;
UPDATE steelyard.account SET seq = {rows}, posted = {rows} WHERE id = {account};
SET session_replication_role = DEFAULT;
"""

CHARGE = """
EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)
SELECT * FROM steelyard.post_batch($1, array['default'], array[$2], array[sha256('x')], array[$3], array[$4::bigint],
    array[NULL]::bigint[], array[$5::bigint], array[NULL]::bigint[], array[NULL]::timestamptz[], array[false],
    array[NULL]::text[])
"""


async def blocks_touched(connection: Connection, key: str, account: AccountId) -> int:
    """How many blocks one charge reads, everything inside the function counted."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    text = await connection.fetchval(CHARGE, now, key, "charge", account, 1)
    plan = json.loads(text)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


async def test_key_lookup_stays_flat_on_an_account_with_half_a_million_changes(
    world: World,
) -> None:
    young, old = await world.open_account(100_000), await world.open_account(1)
    superuser = await world.as_superuser()
    await superuser.execute(FILL.format(account=old, rows=LONG), timeout=100)
    for _ in range(
        8
    ):  # plans are cached by now, while the statistics still say the tables are small
        await blocks_touched(superuser, f"warm-{_}", young)
        await blocks_touched(superuser, f"warm-{_}", young)  # again: a replay has a plan of its own
    few = min([await blocks_touched(superuser, f"young-{i}", young) for i in range(5)])
    many = min([await blocks_touched(superuser, f"old-{i}", old) for i in range(5)])
    replayed = await blocks_touched(superuser, "old-0", old)
    await superuser.execute("VACUUM ANALYZE")
    fresh = min([await blocks_touched(superuser, f"later-{i}", old) for i in range(5)])
    await superuser.close()
    assert few > 0
    # Index depth may differ by a level in three indexes; walking the history would be thousands of blocks.
    assert max(many, replayed, fresh) <= few + 30, (few, many, replayed, fresh)
