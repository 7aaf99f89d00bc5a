"""The outbox: bounded, in order, with one balance per account; what it merges says the range it covers."""

import json
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.ids import AccountId
from steelyard.live.events import BalanceUpdate, LiveEvent, live_events_of
from steelyard.live.outbox import OUTBOX_LIMIT, Outbox
from tests.unit.steps import step_of


@dataclass
class Counted:
    """How often the outbox called."""

    wakes: int = 0
    overflows: int = 0

    def wake(self) -> None:
        self.wakes += 1

    def overflow(self) -> None:
        self.overflows += 1


def outbox_of(counted: Counted, limit: int = OUTBOX_LIMIT) -> Outbox:
    """An outbox whose calls are counted."""
    return Outbox(counted.wake, counted.overflow, limit)


def drained(outbox: Outbox) -> list[LiveEvent]:
    """Take everything."""
    found = []
    while (event := outbox.take()) is not None:
        found.append(event)
    return found


def put_steps(outbox: Outbox, seqs: range, account: int = 7) -> None:
    """Put steps in as they are told."""
    for seq in seqs:
        for event in live_events_of(step_of(seq, account=AccountId(account))):
            outbox.put(event)


def test_a_merged_balance_keeps_the_first_beginning_and_the_last_end() -> None:
    outbox = outbox_of(Counted())
    put_steps(outbox, range(4, 9))
    events = drained(outbox)
    assert [event.name for event in events] == ["balance_updated", *["transaction_completed"] * 5]
    update = json.loads(events[0].payload)
    assert (update["previousBalance"], update["newBalance"]) == (3, 8)
    assert (update["prevSeq"], update["seq"]) == (3, 8)
    assert [event.seq for event in events[1:]] == [4, 5, 6, 7, 8]
    assert outbox.merged == 4


def test_balances_of_two_accounts_are_not_mixed() -> None:
    outbox = outbox_of(Counted())
    for seq in range(1, 4):
        put_steps(outbox, range(seq, seq + 1), 7)
        put_steps(outbox, range(seq, seq + 1), 8)
    updates = [event for event in drained(outbox) if isinstance(event, BalanceUpdate)]
    assert [(update.account, update.seq) for update in updates] == [(7, 3), (8, 3)]


def test_it_ends_once_when_it_is_full_and_takes_nothing_more() -> None:
    counted = Counted()
    outbox = outbox_of(counted, 10)
    put_steps(outbox, range(1, 40))
    assert counted.overflows == 1
    assert (len(outbox), outbox.take()) == (0, None)


def test_it_wakes_when_something_waits_where_nothing_did() -> None:
    counted = Counted()
    outbox = outbox_of(counted)
    put_steps(outbox, range(1, 4))
    assert counted.wakes == 1
    drained(outbox)
    put_steps(outbox, range(4, 5))
    assert counted.wakes == 2


@given(st.lists(st.sampled_from(("step", "take", "error")), max_size=120))
def test_every_completion_leaves_in_order_after_a_balance_that_covers_it(acts: list[str]) -> None:
    outbox = outbox_of(Counted(), 1_000)
    seq, sent = 0, []
    for act in acts:
        if act == "step":
            seq += 1
            put_steps(outbox, range(seq, seq + 1))
        elif act == "error":
            outbox.put(LiveEvent("error", "{}"))
        elif (event := outbox.take()) is not None:
            sent.append(event)
    sent += drained(outbox)
    completed = [event.seq for event in sent if event.name == "transaction_completed"]
    assert completed == list(range(1, seq + 1))
    covered = 0
    for event in sent:
        if isinstance(event, BalanceUpdate):
            assert event.prev_seq == covered
            covered = event.seq or 0
        elif event.name == "transaction_completed":
            assert event.seq is not None
            assert event.seq <= covered
    assert covered == seq
