"""Afterwards: did each side charge what it said it charged? A benchmark that loses money is no benchmark."""

from dataclasses import dataclass

from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.place import BenchDatabase
from steelyard.runtime.database import connect

PRODUCT_STANDING = """
    SELECT (SELECT count(*) FROM steelyard.change WHERE kind = 'charge') AS charges,
           (SELECT coalesce(sum(posted), 0) FROM steelyard.account WHERE kind = 'held')::bigint AS balance,
           (SELECT coalesce(sum(amount), 0) FROM steelyard.change WHERE kind <> 'batch')::bigint AS derived,
           (SELECT coalesce(sum(posted), 0) FROM steelyard.account)::bigint AS books
"""
PEER_STANDING = """
    SELECT (SELECT count(*) FROM peer.change WHERE amount < 0) AS charges,
           (SELECT coalesce(sum(balance), 0) FROM peer.account)::bigint AS balance,
           (SELECT coalesce(sum(amount), 0) FROM peer.change)::bigint AS derived, 0::bigint AS books
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a side's tables add up to, minor units."""

    charges: int
    balance: int
    derived: int
    """The balances once more, from the changes."""
    books: int
    """Sum over all accounts, the books' own included; 0 where there are none."""


async def read_standing(database: BenchDatabase, query: str) -> Standing:
    """Return what the tables add up to now."""
    connection = await connect(database.admin_url)
    try:
        row = await connection.fetchrow(query, timeout=600)
    finally:
        await connection.close(timeout=5)
    assert row is not None
    return Standing(row["charges"], row["balance"], row["derived"], row["books"])


def check_charged(
    side: str, before: Standing, after: Standing, *, charged: int, amount: int
) -> None:
    """Compare what was acknowledged with what is there.

    Args:
        charged: How many charges of `amount` were acknowledged between the two.
    Raises:
        BenchmarkUnsound: A charge is missing or was made twice, or the balances are not what the changes say.
    """
    made, taken = after.charges - before.charges, before.balance - after.balance
    if made != charged:
        raise BenchmarkUnsound(
            side=side, problem=f"acknowledged {charged} charges, {made} are there"
        )
    if taken != charged * amount:
        raise BenchmarkUnsound(
            side=side,
            problem=f"charged {charged * amount} in all, {taken} is gone from the balances",
        )
    if after.balance != after.derived or after.books != 0:
        raise BenchmarkUnsound(side=side, problem="the balances are not what the changes add up to")
