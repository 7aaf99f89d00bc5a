"""The first pass over a tenant, which keeps nothing apart, misses nothing that the pass account by account would find."""

from random import Random
from typing import Any

import pytest

from steelyard.core.ids import DEFAULT_TENANT, AccountId
from steelyard.reconcile.store import screen
from steelyard.runtime.database import Connection
from tests.store.corruptions import CORRUPTIONS, append_change
from tests.store.reconcile_kit import open_many_accounts, tampering
from tests.store.test_corruptions import make_history
from tests.world import World

SECRET = 1_234_567_890_123_456_789
FAR = 2**32
# Each leaves the sum of what it altered as it was, or lies where a hash folds its argument.
TOGETHER = {
    "totals moved between two accounts": """
        UPDATE account SET total_recharged = total_recharged + 5 WHERE id = $1;
        UPDATE account SET total_recharged = total_recharged - 5 WHERE id = $2""",
    "both totals of one account": """
        UPDATE account SET total_recharged = total_recharged + 5, total_spent = total_spent + 5 WHERE id = $1""",
    "money moved between two accounts": """
        UPDATE account SET posted = posted + 5 WHERE id = $1; UPDATE account SET posted = posted - 5 WHERE id = $2""",
    "two accounts exchange a change": """
        UPDATE change SET account_id = -$1 WHERE account_id = $1 AND seq = 3;
        UPDATE change SET account_id = $1 WHERE account_id = $2 AND seq = 3;
        UPDATE change SET account_id = $2 WHERE account_id = -$1""",
    "a history moved to an account of the same lower half": """
        UPDATE change SET account_id = ($1::bigint # 1) + 4294967296 WHERE account_id = $1""",
    "holds moved to an account of the same lower half": """
        UPDATE hold SET account_id = ($1::bigint # 1) + 4294967296 WHERE account_id = $1""",
    "requests moved to an account of the same lower half": """
        UPDATE operation SET account_id = ($1::bigint # 1) + 4294967296 WHERE account_id = $1""",
    "a balance of the same lower half": """
        UPDATE change SET balance_after = (balance_after # 1) + 4294967296 WHERE account_id = $1 AND seq = 2""",
    "two changes beyond all balances": """
        INSERT INTO change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after, posted_at, hash, previous_hash)
        SELECT tenant_id, id, n, 'sync', 4611686018427387904, 4611686018427387904, 4611686018427387904, 4611686018427387904,
               opened_at, '', '' FROM account, unnest(ARRAY[500, 501]) n WHERE id = $1""",
    "two changes of one lower half beyond all numbers": """
        INSERT INTO change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after, posted_at, hash, previous_hash)
        SELECT tenant_id, id, n, 'sync', 0, 0, 7, 0, opened_at, '', ''
          FROM account, unnest(ARRAY[4294967296 + 9, 8589934592 + 10]::bigint[]) n WHERE id = $1""",
    "requests of two accounts exchanged for repeated ones": """
        DELETE FROM operation WHERE account_id = $2 AND seq IN (1, 2);
        INSERT INTO operation SELECT tenant_id, key || '-' || n, body_hash, account_id, seq
          FROM operation, generate_series(1, 2) n WHERE account_id = $1 AND seq = 1""",
}


async def passes(connection: Connection) -> dict[str, tuple[bool, set[int]]]:
    """Return, for numbers and for requests, whether the first pass is content and whom the second suspects."""
    books = await connection.fetch("SELECT funding_id, revenue_id FROM book")
    sides = [row["funding_id"] for row in books], [row["revenue_id"] for row in books]
    found: dict[str, tuple[bool, set[int]]] = {}
    for name, first, second, arguments in (
        ("numbers", screen.PROVE_ARITHMETIC, screen.SCREEN_ARITHMETIC, (SECRET, *sides)),
        ("requests", screen.PROVE_REQUESTS, screen.SCREEN_REQUESTS, (SECRET,)),
    ):
        given: tuple[Any, ...] = (DEFAULT_TENANT, *arguments)
        rows = await connection.fetch(second, *given)
        named = {row["account_id"] for row in rows if row["account_id"] is not None}
        if any(row.get("transfers") for row in rows):
            named.add(0)
        found[name] = (await connection.fetchval(first, *given), named)
    return found


async def prepare(world: World) -> list[AccountId]:
    accounts = await open_many_accounts(world, 3)
    await make_history(world, accounts, Random(7))
    await world.ledger().recharge(accounts[0], 2**40)
    return accounts


async def test_first_pass_is_content_exactly_when_the_second_suspects_nobody(world: World) -> None:
    accounts = await prepare(world)
    async with tampering(world) as connection:
        clean = await passes(connection)
        assert clean == {"numbers": (True, set()), "requests": (True, set())}
        noticed = 0
        for corruption in CORRUPTIONS:
            transaction = connection.transaction()
            await transaction.start()
            await corruption.act(connection, accounts[0], Random(3))
            for is_content, suspects in (await passes(connection)).values():
                assert is_content is (not suspects), corruption.name
                noticed += bool(suspects)
            await transaction.rollback()
        assert noticed > len(CORRUPTIONS) / 3


@pytest.mark.parametrize("what", TOGETHER)
async def test_alterations_that_add_up_to_nothing_are_noticed(world: World, what: str) -> None:
    accounts = await prepare(world)
    async with tampering(world) as connection:
        text = TOGETHER[what].replace("$1", str(accounts[0])).replace("$2", str(accounts[1]))
        await connection.execute(text)
        found = (await passes(connection)).values()
        assert any(suspects for _, suspects in found)
        for is_content, suspects in found:
            assert is_content is (not suspects)


async def test_account_beyond_four_billion_is_proved_by_the_second_pass(world: World) -> None:
    accounts = await prepare(world)
    async with tampering(world) as connection:
        for table, column in (
            ("account", "id"),
            ("change", "account_id"),
            ("hold", "account_id"),
            ("operation", "account_id"),
        ):
            await connection.execute(
                f"UPDATE {table} SET {column} = {column} + {FAR} WHERE {column} = {accounts[0]}"
            )
        await connection.execute(
            f"UPDATE change SET contra_id = contra_id + {FAR} WHERE contra_id = {accounts[0]}"
        )
        assert await passes(connection) == {"numbers": (False, set()), "requests": (True, set())}
        await append_change(connection, accounts[0] + FAR, 5)
        assert (await passes(connection))["numbers"] == (False, {accounts[0] + FAR})
