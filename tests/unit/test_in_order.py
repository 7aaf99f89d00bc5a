"""Steps are handed on in the order of seq, whatever order batches come back in."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.ids import DEFAULT_TENANT, AccountId, TransactionId
from steelyard.ledger.in_order import InOrder
from steelyard.ledger.model import Kind, Posted

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def step(seq: int, account: int = 1) -> Posted:
    """One step of an account."""
    place = AccountId(account)
    return Posted(
        transaction=TransactionId(place, seq),
        replayed=False,
        kind=Kind.CHARGE,
        tenant=DEFAULT_TENANT,
        account=place,
        user=None,
        currency="GBP",
        amount=-1,
        held_amount=0,
        balance_after=-seq,
        held_after=0,
        seq=seq,
        posted_at=NOW,
    )


def test_a_batch_that_overtakes_another_waits_for_it() -> None:
    heard: list[int] = []
    order = InOrder(lambda posted: heard.append(posted.seq))
    order.begin(1)
    order.begin(2)
    for seq in (3, 4):
        order.add(step(seq))
    order.end(2)
    assert heard == []
    for seq in (1, 2):
        order.add(step(seq))
    order.end(1)
    assert heard == [1, 2, 3, 4]


def test_a_gap_that_nobody_here_can_fill_is_not_waited_for() -> None:
    heard: list[int] = []
    order = InOrder(lambda posted: heard.append(posted.seq))
    order.begin(1)
    order.begin(2)
    order.add(step(7))  # 1 to 6 were made by another process
    order.end(1)
    assert heard == []
    order.end(2)
    assert heard == [7]
    order.begin(3)
    order.add(step(9))
    order.end(3)
    assert heard == [7, 9]


def test_a_batch_that_never_comes_back_holds_nothing_up() -> None:
    heard: list[int] = []
    order = InOrder(lambda posted: heard.append(posted.seq))
    order.begin(1)
    order.begin(2)
    order.add(step(2))
    order.end(2)
    order.end(1)  # its connection was lost
    assert heard == [2]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.booleans())
def test_two_lanes_give_every_step_once_and_in_order(sizes: list[int], swapped: bool) -> None:
    heard: list[int] = []
    order = InOrder(lambda posted: heard.append(posted.seq))
    batches, seq = [], 1
    for size in sizes:
        batches.append(range(seq, seq + size))
        seq += size
    for first in range(0, len(batches), 2):
        pair = list(enumerate(batches))[first : first + 2]
        for number, _ in pair:
            order.begin(number)
        for number, steps in reversed(pair) if swapped else pair:
            for one in steps:
                order.add(step(one))
            order.end(number)
    assert heard == list(range(1, seq))
