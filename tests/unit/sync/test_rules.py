"""The engine's decisions, on any history: budgets hold in every window, circuits open and close, nobody waits for ever."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.providers.errors import ErrorScope, ProviderRateLimited, ProviderReauth
from steelyard.sync.model import Budget, Circuit, Failure, Fetched, Grant, Lease, Reason, State
from steelyard.sync.rules import (
    NEVER,
    Cadence,
    after_results,
    failure_of,
    first_due,
    grant_of,
    is_tiered,
    next_due,
    period_of,
    plan_finish,
    refill,
    refusal_of,
    share_of,
    spend,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PERIOD = timedelta(minutes=5)
OUTAGE = Failure("provider_transient", "it did not answer", True, counts_as_outage=True)


def budget(**changes: object) -> Budget:
    """Ten a second, full, closed."""
    made = Budget(10.0, 10.0, 10.0, NOW, 100, NOW.date())
    return replace(made, **changes)  # type: ignore[arg-type]


def lease(attempts: int = 1, user: str = "a", token: int = 1) -> Lease:
    """A lease of one request."""
    until = NOW + timedelta(seconds=30)
    return Lease(
        DEFAULT_TENANT, "bank", "update-balances", UserId(user), token, until, 0, 1, attempts, 7
    )


def fetched(failure: Failure | None = None, attempts: int = 1) -> Fetched:
    """An attempt that sent one request."""
    return Fetched(lease(attempts), failure=failure, requests=1)


# --- budgets -----------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.integers(min_value=-2_000, max_value=5_000), st.booleans(), st.integers(0, 50)),
    max_size=60,
)


@given(
    rate=st.sampled_from([0.5, 1.0, 10.0, 333.0]),
    burst=st.sampled_from([1.0, 2.0, 10.0, 40.0]),
    history=steps,
)
def test_no_window_of_any_history_grants_more_than_burst_and_rate(
    rate: float, burst: float, history: list[tuple[int, bool, int]]
) -> None:
    state = budget(rate_per_s=rate, burst=burst, tokens=burst)
    latest = NOW
    spent: list[tuple[datetime, int]] = []
    for moved_ms, is_login, wanted in history:
        latest += timedelta(milliseconds=max(0, moved_ms))
        now = latest + timedelta(milliseconds=min(0, moved_ms / 2))  # a process up to 1 s behind
        state = refill(state, now=now)
        grant = grant_of(state, 0, now=now)
        taken = min(wanted, grant.login if is_login else grant.background)
        state = spend(state, taken)
        spent.append((latest, taken))
    for i, (begin, _) in enumerate(spent):
        for j in range(i, len(spent)):
            total = sum(taken for _, taken in spent[i : j + 1])
            assert total <= burst + rate * (spent[j][0] - begin).total_seconds() + 1e-6


@given(tokens=st.floats(-5, 10), in_flight=st.integers(0, 20))
def test_background_is_granted_no_more_than_logins_and_never_their_part(
    tokens: float, in_flight: int
) -> None:
    grant = grant_of(budget(tokens=tokens, in_flight_max=10), in_flight, now=NOW)
    assert 0 <= grant.background <= grant.login
    assert grant.login <= max(0, 10 - in_flight)
    assert grant.background <= max(0, tokens - 2)


def test_the_days_quota_ends_and_begins_again_at_midnight() -> None:
    used = budget(daily_limit=100, daily_used=95, daily_on=NOW.date())
    assert grant_of(used, 0, now=NOW) == Grant(5, 0)
    assert grant_of(replace(used, daily_used=100), 0, now=NOW) == Grant(0, 0)
    tomorrow = datetime(2026, 3, 2, 0, 0, 1, tzinfo=UTC)
    renewed = refill(replace(used, daily_used=100), now=tomorrow)
    assert (renewed.daily_used, renewed.daily_on) == (0, date(2026, 3, 2))
    assert grant_of(renewed, 0, now=tomorrow) == Grant(10, 8)
    # A clock that went back a day does not grant the day again.
    assert refill(replace(renewed, daily_used=100), now=NOW).daily_used == 100


def test_a_clock_that_was_fast_stops_nobody_once_it_is_right() -> None:
    ahead = NOW + timedelta(days=400)
    stuck = budget(tokens=0.0, daily_limit=100, daily_used=100)
    stuck = replace(stuck, refilled_at=ahead, daily_on=ahead.date())
    right = refill(stuck, now=NOW)
    assert (right.tokens, right.daily_used) == (0.0, 100)
    later = refill(right, now=NOW + timedelta(seconds=1))
    assert (later.tokens, later.daily_used) == (10.0, 100)
    assert refill(later, now=NOW + timedelta(days=1)).daily_used == 0


def test_a_small_bucket_serves_the_background_too() -> None:
    assert grant_of(budget(burst=1.0, tokens=1.0), 0, now=NOW) == Grant(1, 1)


# --- circuits ----------------------------------------------------------------------------------


def test_five_outages_in_a_row_open_the_circuit_and_one_probe_decides() -> None:
    state = budget()
    for _ in range(4):
        state = after_results(state, [fetched(OUTAGE)], now=NOW)
    assert state.circuit is Circuit.CLOSED
    state = after_results(state, [fetched(OUTAGE)], now=NOW)
    assert state.circuit is Circuit.OPEN
    assert grant_of(state, 0, now=NOW + timedelta(seconds=9)) == Grant(0, 0)
    later = NOW + timedelta(seconds=10)
    assert grant_of(state, 0, now=later) == Grant(1, 1)
    assert grant_of(state, 1, now=later) == Grant(0, 0)
    probing = spend(state, 1)
    assert probing.circuit is Circuit.HALF_OPEN
    again = after_results(probing, [fetched(OUTAGE)], now=later)
    assert (again.circuit, again.circuit_until) == (Circuit.OPEN, later + timedelta(seconds=20))
    healed = after_results(probing, [fetched()], now=later)
    assert healed == replace(
        state,
        tokens=9.0,
        daily_used=1,
        circuit=Circuit.CLOSED,
        circuit_until=None,
        circuit_failures=0,
        circuit_openings=0,
    )


def test_an_answer_between_outages_keeps_the_circuit_closed() -> None:
    state = budget()
    for _ in range(20):
        state = after_results(state, [fetched(OUTAGE)] * 3, now=NOW)
        state = after_results(state, [fetched()], now=NOW)
        assert (state.circuit, state.circuit_failures) == (Circuit.CLOSED, 0)


@given(outcomes=st.lists(st.booleans(), max_size=80))
def test_a_circuit_never_stays_open_longer_than_five_minutes(outcomes: list[bool]) -> None:
    state, now = budget(), NOW
    for is_good in outcomes:
        if state.circuit is Circuit.OPEN:
            assert state.circuit_until is not None
            assert timedelta(0) < state.circuit_until - now <= timedelta(minutes=5)
            now = state.circuit_until
            assert grant_of(refill(state, now=now), 0, now=now).login == 1
            state = spend(refill(state, now=now), 1)
        state = after_results(state, [fetched(None if is_good else OUTAGE)], now=now)


def test_who_asks_to_wait_is_obeyed_and_is_no_outage() -> None:
    error = ProviderRateLimited(provider="bank", reason="status_429", retry_after_s=30.0)
    state = budget()
    for _ in range(10):
        state = after_results(state, [fetched(failure_of(error))], now=NOW)
    assert (state.circuit, state.blocked_until) == (Circuit.CLOSED, NOW + timedelta(seconds=30))
    assert grant_of(state, 0, now=NOW + timedelta(seconds=29)) == Grant(0, 0)
    assert grant_of(state, 0, now=NOW + timedelta(seconds=30)) == Grant(10, 8)


def test_one_users_limit_stops_nobody_else() -> None:
    error = ProviderRateLimited(
        provider="bank", reason="status_429", retry_after_s=30.0, scope=ErrorScope.CONNECTION
    )
    assert after_results(budget(), [fetched(failure_of(error))], now=NOW).blocked_until is None


# --- what comes next ---------------------------------------------------------------------------


def test_a_failed_attempt_is_made_again_after_one_and_two_seconds_and_then_no_more() -> None:
    waits = []
    for attempts in (1, 2, 3):
        finish = plan_finish(fetched(OUTAGE, attempts), PERIOD, now=NOW)
        waits.append((finish.state, (finish.due_at - NOW).total_seconds()))
    assert waits[:2] == [(State.RETRYING, 1.0), (State.RETRYING, 2.0)]
    assert waits[2][0] is State.FAILED
    assert 270.0 <= waits[2][1] <= 330.0


def test_no_sync_is_planned_with_more_requests_than_a_lease_may_send() -> None:
    finish = plan_finish(replace(fetched(), requests=1_001), PERIOD, now=NOW)
    assert finish.cost == 1_000


def test_what_cannot_succeed_is_not_tried_again() -> None:
    error = ProviderReauth(provider="bank", reason="status_401")
    finish = plan_finish(fetched(failure_of(error)), PERIOD, now=NOW)
    assert (finish.state, finish.word) == (State.FAILED, "provider_reauth")


@given(user=st.text(min_size=1, max_size=20), token=st.integers(1, 10**9))
def test_the_next_sync_is_a_period_away_give_or_take_a_tenth(user: str, token: int) -> None:
    one = Fetched(lease(user=user, token=token), requests=1)
    due = next_due(one, PERIOD, now=NOW)
    assert due == next_due(one, PERIOD, now=NOW)
    assert 0.9 * PERIOD <= due - NOW <= 1.1 * PERIOD


def test_first_syncs_are_spread_over_the_period() -> None:
    waits = [first_due("t", f"user-{i}", PERIOD, now=NOW) - NOW for i in range(2_000)]
    assert all(timedelta(0) <= wait < PERIOD for wait in waits)
    for tenth in range(10):
        there = sum(PERIOD * tenth / 10 <= wait < PERIOD * (tenth + 1) / 10 for wait in waits)
        assert 140 <= there <= 260
    assert first_due("t", "u", None, now=NOW) == NOW + NEVER
    assert share_of("ab", "c") != share_of("a", "bc")


def test_one_period_for_all_while_the_source_bears_it_and_tiers_beyond() -> None:
    login = NOW - timedelta(minutes=10)
    few, many = Cadence(PERIOD, 2_400), Cadence(PERIOD, 2_401)
    assert not is_tiered(few, budget())
    assert period_of(few, budget(), None, now=NOW) == PERIOD
    assert is_tiered(many, budget())
    assert period_of(many, budget(), login, now=NOW) == PERIOD
    assert period_of(many, budget(), NOW - timedelta(hours=5), now=NOW) == timedelta(hours=1)
    assert period_of(many, budget(), NOW - timedelta(days=2), now=NOW) == timedelta(days=1)
    assert period_of(many, budget(), None, now=NOW) == timedelta(days=1)
    assert period_of(Cadence(None, 5), budget(), login, now=NOW) == NEVER


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (None, Reason.UNKNOWN_USER),
        (("inactive", "MOBILE_BANKING", 1), Reason.INACTIVE),
        (("active", "WALLET", 1), Reason.WALLET),
        (("active", "MOBILE_BANKING", 0), Reason.NO_ACCOUNTS),
        (("active", "MOBILE_BANKING", 1), None),
    ],
)
def test_only_active_mobile_banking_users_with_an_account_are_synced(
    standing: tuple[str, str, int] | None, reason: Reason | None
) -> None:
    assert refusal_of(standing) is reason
