"""Parts of the engine alone: permits, parts of a run, when resting ends, how often may be asked, what is counted."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.core.money import Currency
from steelyard.mirror.model import MirroredAccount, ShownBalance
from steelyard.sync.fetch_balances import MORE_REQUESTS, in_order
from steelyard.sync.figures import LOGIN_BOUNDS_S, SyncFigures
from steelyard.sync.limit_requests import RequestLimit, TooManySyncs
from steelyard.sync.model import (
    Budget,
    Circuit,
    Failure,
    Fetched,
    Grant,
    Lease,
    Reason,
    State,
    SyncResult,
)
from steelyard.sync.rules import (
    Cadence,
    grant_of,
    latest_due,
    most_targets,
    next_due,
    next_rest,
    period_of,
    permits_of,
    plan_finish,
)
from steelyard.testing.clock import FrozenClock

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PERIOD = timedelta(minutes=5)
OUTAGE = Failure("provider_transient", "it did not answer", True, counts_as_outage=True)


def budget(**changes: object) -> Budget:
    """Ten a second, full, closed."""
    return replace(Budget(10.0, 10.0, 10.0, NOW, 100, NOW.date()), **changes)  # type: ignore[arg-type]


def lease(attempts: int = 1, cost: int = 1, read: frozenset[AccountId] = frozenset()) -> Lease:
    """A lease of one user's target."""
    until, user = NOW + timedelta(seconds=30), UserId("a")
    kind = "update-balances"
    return Lease(DEFAULT_TENANT, "bank", kind, user, 1, until, 0, cost, attempts, 7, None, read)


def shown(account: int) -> ShownBalance:
    """A balance that was read."""
    return ShownBalance(AccountId(account), 1, NOW, {})


# --- permits -----------------------------------------------------------------------------------


def test_permits_keep_the_part_of_logins_and_end_attempts_where_the_source_is_not_asked() -> None:
    assert permits_of(budget(), now=NOW) == Grant(10, 8)
    assert permits_of(budget(tokens=2.9), now=NOW) == Grant(2, 0)
    assert permits_of(budget(tokens=0.0), now=NOW) == Grant(0, 0)  # they wait
    assert permits_of(budget(circuit=Circuit.HALF_OPEN), now=NOW) == Grant(10, 8)
    later, before = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)
    stopped = (
        budget(paused_at=before),
        budget(blocked_until=later),
        budget(circuit=Circuit.OPEN, circuit_until=before),
        budget(daily_limit=5, daily_used=5),
    )
    assert [permits_of(one, now=NOW) for one in stopped] == [None] * 4
    assert permits_of(budget(blocked_until=before), now=NOW) == Grant(10, 8)


def test_a_paused_source_is_granted_nothing_whatever_its_circuit_says() -> None:
    for circuit in Circuit:
        paused = budget(paused_at=NOW, circuit=circuit, circuit_until=NOW - timedelta(seconds=1))
        assert grant_of(paused, 0, now=NOW) == Grant(0, 0)


# --- runs in parts -----------------------------------------------------------------------------


def test_an_attempt_that_read_something_and_was_cut_short_goes_on_at_once_and_does_not_count() -> (
    None
):
    for attempts in (1, 2, 3):
        part = Fetched(lease(attempts, 25), (shown(1), shown(2)), (MORE_REQUESTS,), None, 2)
        finish = plan_finish(part, PERIOD, now=NOW)
        assert (finish.state, finish.due_at, finish.is_progress) == (State.RETRYING, NOW, True)
        assert (finish.read, finish.cost, finish.error) == ((1, 2), 25, None)


def test_an_attempt_that_read_nothing_counts_even_if_it_was_cut_short() -> None:
    states = [
        plan_finish(Fetched(lease(n, 5), (), (MORE_REQUESTS,), None, 1), PERIOD, now=NOW)
        for n in (1, 2, 3)
    ]
    assert [(one.state, one.is_progress) for one in states] == [
        (State.RETRYING, False),
        (State.RETRYING, False),
        (State.FAILED, False),
    ]


def test_only_a_sync_that_read_everything_says_what_one_costs() -> None:
    cases = {
        3: Fetched(lease(cost=9), (shown(1),), (), None, 3),
        9: Fetched(lease(cost=9), (), (), OUTAGE, 1),
        8: Fetched(lease(cost=8, read=frozenset({AccountId(2)})), (shown(1),), (), None, 3),
        12: Fetched(lease(cost=9), (shown(1),), (OUTAGE,), None, 12),
    }
    for cost, one in cases.items():
        assert plan_finish(one, PERIOD, now=NOW).cost == cost


def test_the_primary_account_is_asked_for_first_and_those_never_read_last() -> None:
    read = [None, NOW, None, NOW - timedelta(days=1), NOW + timedelta(days=1)]
    accounts = [
        MirroredAccount(
            AccountId(i), UserId("a"), "bank", f"{i}", Currency("GBP", 2), i == 0, True, 0, at
        )
        for i, at in enumerate(read)
    ]
    assert [one.account for one in in_order(accounts)] == [0, 3, 1, 4, 2]


# --- resting -----------------------------------------------------------------------------------


@given(
    interval_s=st.integers(60, 200_000), targets=st.integers(0, 200_000), token=st.integers(1, 99)
)
def test_no_target_that_today_planned_is_ever_planned_anew(
    interval_s: int, targets: int, token: int
) -> None:
    cadence = Cadence(timedelta(seconds=interval_s), targets)
    one = Fetched(replace(lease(), token=token))
    for away in (None, NOW - timedelta(hours=2), NOW):
        period = period_of(cadence, budget(), away, now=NOW)
        assert next_due(one, period, now=NOW) <= latest_due(cadence, budget(), now=NOW)
    rest = next_rest("default", "a", cadence.interval, now=NOW)
    assert rest <= latest_due(cadence, budget(), now=NOW)


def test_without_a_period_nothing_is_ever_too_late() -> None:
    never = next_rest("default", "a", None, now=NOW)
    assert never < latest_due(Cadence(None, 0), budget(), now=NOW)
    assert most_targets(Cadence(None, 0), budget()) == 0
    assert most_targets(Cadence(PERIOD, 0), budget()) == 2_400


# --- asking ------------------------------------------------------------------------------------


def test_a_user_may_ask_thirty_times_at_once_then_once_a_second() -> None:
    clock = FrozenClock()
    limit = RequestLimit(clock)
    me, other = UserId("me"), UserId("other")
    for _ in range(30):
        limit.check(DEFAULT_TENANT, me)
    with pytest.raises(TooManySyncs) as refused:
        limit.check(DEFAULT_TENANT, me)
    assert (refused.value.code, refused.value.retry_after_s) == ("rate_limited", 1.0)
    limit.check(DEFAULT_TENANT, other)
    limit.check(TenantId("elsewhere"), me)
    clock.move(timedelta(seconds=2))
    for _ in range(2):
        limit.check(DEFAULT_TENANT, me)
    with pytest.raises(TooManySyncs):
        limit.check(DEFAULT_TENANT, me)


def test_users_without_end_are_not_remembered_for_ever() -> None:
    limit = RequestLimit(FrozenClock())
    for i in range(50_010):
        limit.check(DEFAULT_TENANT, UserId(f"u{i}"))
    assert len(limit._left) == 50_000


def test_logins_are_counted_by_result_and_by_how_long_they_waited() -> None:
    figures = SyncFigures()
    figures.note_login(SyncResult(ok=True), 0.02)
    figures.note_login(SyncResult(ok=True, queued=True), 0.4)
    figures.note_login(SyncResult(ok=False, reason=Reason.TIMEOUT), 2.001)
    assert figures.logins == {"ok": 2, "timeout": 1}
    buckets = dict(figures.login_buckets())
    assert (buckets["0.01"], buckets["0.025"], buckets["0.5"], buckets["2.0"]) == (0, 1, 2, 2)
    assert (buckets["2.5"], buckets["+Inf"], len(buckets)) == (3, 3, len(LOGIN_BOUNDS_S) + 1)
    assert figures.login_wait_sum_s == pytest.approx(2.421)
