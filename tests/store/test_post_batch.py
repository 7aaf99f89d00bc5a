"""What the batch function promises about its input, whoever calls it."""

from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from steelyard.balances.store import post_batch
from steelyard.core.ids import DEFAULT_TENANT, AccountId
from steelyard.ledger.model import Kind, Order
from steelyard.ledger.outcomes import columns_of
from tests.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def charge(account: AccountId, amount: int, key: str, details: str | None = None) -> Order:
    """An order to charge."""
    return Order(DEFAULT_TENANT, Kind.CHARGE, account, amount, key, details=details)


async def test_keys_said_not_to_repeat_that_do_are_refused_whole(world: World) -> None:
    account = await world.open_account(100)
    columns = columns_of([charge(account, 1, "k"), charge(account, 1, "k")], [None, None])
    assert columns.keys_repeat
    superuser = await world.as_superuser()
    with pytest.raises(asyncpg.UniqueViolationError):
        await post_batch(superuser, NOW, replace(columns, keys_repeat=False))
    assert len(await world.changes(account)) == 1
    row = await post_batch(superuser, NOW, columns)
    await superuser.close()
    assert (row["r_outcome"], row["r_seq"]) == (["posted", "replayed"], [2, 2])
    assert (await world.balance(account)).posted == 99


async def test_charges_and_refunds_that_even_out_leave_the_books_as_they_are(world: World) -> None:
    account = await world.open_account(100)
    refund = Order(DEFAULT_TENANT, Kind.REFUND, account, 5, "back")
    superuser = await world.as_superuser()
    books = (
        "SELECT array_agg((posted, seq) ORDER BY id) FROM steelyard.account WHERE kind = 'system'"
    )
    before = await superuser.fetchval(books)
    row = await post_batch(
        superuser, NOW, columns_of([charge(account, 5, "there"), refund], [None, None])
    )
    after = await superuser.fetchval(books)
    await superuser.close()
    assert row["r_balance_after"] == [95, 100]
    assert before == after
