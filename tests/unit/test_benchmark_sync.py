"""The meters of `bench sync`: what counts as more than a budget allows, and which request answers which grant."""

from array import array
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from steelyard.cli.benchmarks.callers import Sample
from steelyard.cli.benchmarks.sync import compare
from steelyard.cli.benchmarks.sync_bank import BankSaw
from steelyard.cli.benchmarks.sync_budget import (
    BudgetPlan,
    compare_budget,
    delays_of,
    overruns,
    read_arrivals,
)

SECOND = 1_000_000
PLAN = BudgetPlan(seconds=10, requests_per_s=10.0, in_flight=5)
SAW = BankSaw(requests=0, in_flight_max=5, in_flight_max_of_one=1)


def spread(count: int, *, start_us: int = 0) -> list[tuple[int, int]]:
    """Return so many moments at exactly 10 a second, each about an account of its own."""
    return [(start_us + index * SECOND // 10, index) for index in range(count)]


@given(st.lists(st.integers(0, 3 * SECOND), max_size=25), st.integers(1, 6))
def test_a_window_with_too_many_is_found_wherever_it_is(times_us: list[int], burst: int) -> None:
    times_us.sort()
    rate = 2.0
    is_over = any(
        last - first + 1 > burst + rate * (times_us[last] - times_us[first]) / SECOND + 1e-3
        for first in range(len(times_us))
        for last in range(first, len(times_us))
    )
    assert (overruns(times_us, rate, burst) > 0) is is_over


def test_a_burst_and_then_the_rate_is_all_that_is_allowed() -> None:
    steady = [SECOND // 10 * n for n in range(100)]
    assert overruns([0] * 9 + steady, 10.0, 10.0) == 0
    assert overruns([0] * 10 + steady, 10.0, 10.0) > 0
    assert overruns([], 10.0, 10.0) == 0


def test_each_request_answers_the_oldest_grant_for_its_account() -> None:
    grants = [(10, 1), (20, 2), (30, 1)]
    assert delays_of(grants, [(15, 1), (40, 1), (45, 2)]) == ([5, 10, 25], 0)
    assert delays_of(grants, [(5, 1), (15, 1), (16, 1), (16, 3)]) == ([5], 3)


def test_a_budget_used_up_and_never_exceeded_says_so() -> None:
    grants = spread(100)
    arrivals = [(at + 700, number) for at, number in grants]
    told = compare_budget(PLAN, grants, arrivals, SAW, window_us=(0, 10 * SECOND))
    assert (told["used"], told["exceeded"], told["delay_max_ms"]) == (1.0, 0, 0.7)


def test_too_much_is_told_whether_granted_sent_or_at_once() -> None:
    window = (0, 10 * SECOND)
    too_many = sorted(spread(100) + spread(100))
    told = compare_budget(PLAN, too_many, too_many, SAW, window_us=window)
    over = told["exceeded_grants"]
    assert isinstance(over, int)
    assert over > 0
    assert (told["exceeded_arrivals"], told["exceeded"]) == (over, 2 * over)
    unasked = compare_budget(PLAN, spread(10), spread(11), SAW, window_us=window)
    assert (unasked["exceeded"], unasked["arrivals_ungranted"]) == (1, 1)
    crowd = BankSaw(requests=0, in_flight_max=7, in_flight_max_of_one=1)
    assert compare_budget(PLAN, [], [], crowd, window_us=window)["exceeded"] == 2


def test_what_the_bank_noted_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "arrivals"
    with file.open("wb") as out:
        array("q", [5, 1, 7, 2]).tofile(out)
    assert read_arrivals(file) == [(5, 1), (7, 2)]


def test_syncs_are_compared_with_the_best_number_of_connections() -> None:
    def at(per_s: float, p99_ms: float = 0.0) -> list[Sample]:
        return [Sample(per_s, 1.0, p99_ms, 1)]

    drains = {
        "steelyard": at(9_000), "full_batches": at(12_000),
        "single_4": at(300), "single_16": at(250), "single_call": at(900),
    }  # fmt: skip
    logins = {"login_many_due": at(1, 6.0), "login_few_due": at(1, 4.0)}
    told = compare(drains, logins, {"used": 0.99, "exceeded": 0})
    assert told["targets_ratio_single"] == 30.0
    assert told["full_batches_ratio_single"] == 40.0
    assert told["targets_ratio_single_call"] == 10.0
    assert (told["single_connections"], told["login_lease_ratio"]) == (4, 1.5)
    assert (told["budget_used"], told["budget_exceeded"]) == (0.99, 0)
