"""What the batch function promises about its input, whoever calls it."""

from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.balances.store import array_of_integers, array_of_texts, post_batch
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


# What an array's text could be broken with.
TEXTS = st.lists(
    st.none()
    | st.sampled_from(
        ["", "NULL", "null", "{}", ",", '"', "\\", '\\"', "{a,b}", " ", "\\x00", "é\n"]
    )
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    max_size=8,
)


async def test_texts_and_integers_arrive_as_they_were_written(world: World) -> None:
    superuser = await world.as_superuser()
    cases: list[tuple[list[str | None], list[int | None]]] = []

    @settings(max_examples=300, deadline=None)
    @given(TEXTS, st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=8))
    def collect(texts: list[str | None], integers: list[int | None]) -> None:
        cases.append((texts, integers))

    collect()
    for texts, integers in cases:
        row = await superuser.fetchrow(
            "SELECT $1::text::text[] AS texts, $2::text::bigint[] AS integers",
            array_of_texts(texts),
            array_of_integers(integers),
        )
        assert row is not None
        assert (row["texts"], row["integers"]) == (texts, integers)
    await superuser.close()


def test_text_is_no_integer() -> None:
    with pytest.raises(ValueError, match="format code 'd'"):
        array_of_integers(["1,2"])  # type: ignore[list-item]
