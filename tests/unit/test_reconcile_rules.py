"""What a proof concludes from evidence."""

from dataclasses import replace

import pytest

from steelyard.cli.verify_output import COLUMNS, major, table_lines
from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.reconcile.chunks import chunks_of
from steelyard.reconcile.model import Discrepancy, Evidence, Fault, Report
from steelyard.reconcile.rules import explain, is_broken, largest_first

TENANT = TenantId("default")
SOUND = Evidence(
    account=AccountId(7),
    user=UserId("u"),
    kind="held",
    currency="GBP",
    digits=2,
    posted=100,
    held=10,
    seq=3,
    head=b"h",
    total_recharged=150,
    total_spent=50,
    floor=0,
    suspended=None,
    actual_posted=100,
    actual_held=10,
    actual_seq=3,
    actual_head=b"h",
    actual_recharged=150,
    actual_spent=50,
)


def test_sound_account_gives_no_discrepancy() -> None:
    assert explain(TENANT, SOUND) == []
    assert not is_broken(SOUND)


@pytest.mark.parametrize(
    ("evidence", "fault", "difference"),
    [
        (replace(SOUND, posted=101), Fault.BALANCE, 1),
        (replace(SOUND, held=8), Fault.HELD, -2),
        (replace(SOUND, total_recharged=0), Fault.TOTAL_RECHARGED, -150),
        (replace(SOUND, total_spent=51), Fault.TOTAL_SPENT, 1),
        (replace(SOUND, head=b"x"), Fault.HEAD, 0),
        (replace(SOUND, seq=2), Fault.SEQ, 0),
        (replace(SOUND, seq=4), Fault.SEQ, 0),
        (replace(SOUND, seq=4, head=b"x"), Fault.TAIL, 0),
        (replace(SOUND, gap_seq=2), Fault.GAP, 0),
        (replace(SOUND, step_seq=2), Fault.STEP, 0),
        (replace(SOUND, chain_seq=2), Fault.CHAIN, 0),
        (replace(SOUND, hold_seq=2), Fault.HOLD, 0),
        (replace(SOUND, operation_seq=2), Fault.OPERATION, 0),
        (replace(SOUND, lost_seq=9), Fault.LOST, 0),
        (replace(SOUND, transfer_seq=2, transfer_with=(AccountId(8),)), Fault.TRANSFER, 0),
        (replace(SOUND, checkpoint_problem="damaged"), Fault.CHECKPOINT_DAMAGED, 0),
        (replace(SOUND, checkpoint_problem="rewritten"), Fault.HISTORY, 0),
        (replace(SOUND, checkpoint_problem="missing"), Fault.HISTORY, 0),
        (replace(SOUND, suspended="below_floor"), Fault.SUSPENSION, 0),
        (replace(SOUND, floor=91), Fault.SUSPENSION, 0),
        (replace(SOUND, kind=None), Fault.ORPHAN, 0),
    ],
)
def test_each_fault_is_named_alone(evidence: Evidence, fault: Fault, difference: int) -> None:
    [found] = explain(TENANT, evidence)
    assert (found.fault, found.difference, found.account) == (fault, difference, AccountId(7))


def test_quarantine_is_no_odd_suspension_and_below_the_floor_is_none() -> None:
    assert explain(TENANT, replace(SOUND, suspended="chain_broken")) == []
    assert explain(TENANT, replace(SOUND, floor=91, suspended="below_floor")) == []


def test_account_that_shares_a_transfer_with_a_broken_history_is_not_blamed() -> None:
    shared = replace(SOUND, transfer_seq=2, transfer_with=(AccountId(8), AccountId(9)))
    assert explain(TENANT, shared, broken={AccountId(8), AccountId(9)}) == []
    assert [one.fault for one in explain(TENANT, shared, broken={AccountId(8)})] == [Fault.TRANSFER]
    assert not is_broken(shared)


@pytest.mark.parametrize(
    "evidence",
    [
        replace(SOUND, gap_seq=1),
        replace(SOUND, chain_seq=1),
        replace(SOUND, lost_seq=1),
        replace(SOUND, checkpoint_problem="rewritten"),
        replace(SOUND, seq=9, head=b"x"),
    ],
)
def test_broken_history_is_of_history_and_never_only_a_number(evidence: Evidence) -> None:
    assert is_broken(evidence)
    assert any(one.fault.is_of_history for one in explain(TENANT, evidence))


def test_largest_difference_comes_first() -> None:
    found = [
        explain(TENANT, replace(SOUND, posted=stored))[0] for stored in (101, 90, 100_000)
    ] + explain(TENANT, replace(SOUND, chain_seq=2))
    assert [one.difference for one in largest_first(found)] == [99_900, -10, 1, 0]


@pytest.mark.parametrize(
    ("minor", "digits", "text"),
    [
        (50_000_000, 2, "500,000.00"),
        (-5, 2, "-0.05"),
        (500_000, 0, "500,000"),
        (1_234_567, 3, "1,234.567"),
    ],
)
def test_money_is_shown_with_thousands_separators(minor: int, digits: int, text: str) -> None:
    assert major(minor, digits) == text


def test_table_has_the_reference_columns_and_marks_every_bad_line() -> None:
    wrong = replace(SOUND, user=UserId("evil\x1b[2J"), posted=500_000, actual_posted=450_000)
    details: list[Discrepancy] = explain(TENANT, wrong)
    lines = table_lines(Report(TENANT, details=details, errors=details))
    assert [cell.strip() for cell in lines[0].split("│")][1:6] == list(COLUMNS[:5])
    assert "│ 5,000.00       │ 4,500.00       │ 500.00     │" in lines[2]
    assert "MISMATCH balance: " in lines[2]
    assert "\x1b" not in lines[2]
    fixed = table_lines(Report(TENANT, details=details))
    assert "MISMATCH balance (fixed): " in fixed[2]


def test_chunks_hold_everything_once_in_order() -> None:
    assert [list(one) for one in chunks_of([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]
    assert list(chunks_of([], 3)) == []
