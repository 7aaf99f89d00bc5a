"""Every decision of the engine as plain functions: when next, whether again, how much is granted, who is unwell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from steelyard.core.errors import Retry
from steelyard.providers.contract import BalanceKind
from steelyard.providers.errors import ErrorScope, ProviderError, ProviderRateLimited
from steelyard.sync.model import (
    Budget,
    Circuit,
    Failure,
    Fetched,
    Finish,
    Grant,
    Reason,
    State,
)

ATTEMPTS_MAX: Final = 3
RETRY_DELAYS_S: Final = (1.0, 2.0)
"""Before the second and the third attempt."""
PERIOD_JITTER: Final = 0.1
ACTIVE_FOR: Final = timedelta(minutes=15)
LOAD_MAX: Final = 0.8
"""Part of a source's rate that the period of all targets may plan with."""
NEVER: Final = timedelta(days=36_500)
CIRCUIT_THRESHOLD: Final = 5
CIRCUIT_OPEN_S: Final = 10.0
CIRCUIT_OPEN_MAX_S: Final = 300.0
BLOCK_MAX_S: Final = 3_600.0
COST_MAX: Final = 1_000
"""Requests a sync is known to take, at most, as the table allows."""
CLOCKS_APART_S: Final = 1.0
"""How far the clocks of processes may differ; a moment further ahead came from a wrong one."""
SHOWN_KINDS: Final = (
    BalanceKind.AVAILABLE,
    BalanceKind.USEABLE,
    BalanceKind.WORKING,
    BalanceKind.ONLINE_ACTUAL,
    BalanceKind.LEDGER,
    BalanceKind.CLEARED,
)
"""Which reported balance is shown: the first of these there is. All are kept."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often targets of one lane are due. `interval` None: never by themselves."""

    interval: timedelta | None
    targets: int
    """Requests that all targets of the lane take, and with them its load; counted a little beyond what it bears."""


def share_of(*words: str) -> float:
    """Return a number from 0 up to 1 that these words always give, spread evenly over words."""
    digest = sha256("\0".join(words).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def first_due(tenant: str, subject: str, interval: timedelta | None, *, now: datetime) -> datetime:
    """Return when a new target is due first: somewhere in the first period, so that no herd forms."""
    if interval is None:
        return now + NEVER
    return now + interval * share_of(tenant, subject)


def next_rest(tenant: str, subject: str, interval: timedelta | None, *, now: datetime) -> datetime:
    """Return when a target is due that begins to rest now: in the second half of the period, spread."""
    if interval is None:
        return now + NEVER
    return now + interval * (0.5 + 0.5 * share_of(tenant, subject))


def is_tiered(cadence: Cadence, budget: Budget) -> bool:
    """Whether the source cannot bear every target at the interval, so that activity decides."""
    return cadence.interval is not None and cadence.targets > most_targets(cadence, budget)


def most_targets(cadence: Cadence, budget: Budget) -> int:
    """Return how many requests may be planned for one interval."""
    if cadence.interval is None:
        return 0
    return math.floor(LOAD_MAX * budget.rate_per_s * cadence.interval.total_seconds())


def latest_due(cadence: Cadence, budget: Budget, *, now: datetime) -> datetime:
    """Return the latest moment at which a target that rests may be due: what is later was planned by other settings."""
    if cadence.interval is None:
        return now + 2 * NEVER
    longest = cadence.interval
    if is_tiered(cadence, budget):
        longest = max(longest, timedelta(days=1))
    return now + longest * (1 + PERIOD_JITTER)


def period_of(
    cadence: Cadence, budget: Budget, last_login_at: datetime | None, *, now: datetime
) -> timedelta:
    """Return the time between two syncs of a target: one for all while the source bears it, else by activity."""
    if cadence.interval is None:
        return NEVER
    if not is_tiered(cadence, budget):
        return cadence.interval
    idle = NEVER if last_login_at is None else now - last_login_at
    if idle <= ACTIVE_FOR:
        return cadence.interval
    slower = timedelta(hours=1) if idle <= timedelta(days=1) else timedelta(days=1)
    return max(cadence.interval, slower)


def next_due(fetched: Fetched, period: timedelta, *, now: datetime) -> datetime:
    """Return the end of the period, up to a tenth of it earlier or later, by target and lease."""
    lease = fetched.lease
    share = share_of(lease.tenant, lease.subject, str(lease.token))
    return now + period * (1 + PERIOD_JITTER * (2 * share - 1))


def plan_finish(fetched: Fetched, period: timedelta, *, now: datetime) -> Finish:
    """Decide what comes after an attempt: done, the same run once more soon, or failed until its next period.

    Three attempts in all, after 1 s and 2 s or what the source asked for; never more than the error allows. An attempt
    that read something and was only granted too few requests is none of them: the run goes on with what is left.
    """
    lease, problems = fetched.lease, fetched.problems
    unfinished = next((one for one in problems if one.is_unfinished), None)
    is_progress = fetched.failure is None and unfinished is not None and bool(fetched.balances)
    failure = fetched.failure or unfinished or next(iter(problems), None)
    rest_at = next_due(fetched, period, now=now)
    finish = Finish(
        lease,
        State.COMPLETED,
        rest_at,
        cost_after(fetched, is_done=failure is None),
        "ok",
        {"accounts": len(fetched.balances), "requests": fetched.requests},
        is_progress=is_progress,
        read=fetched.read,
        rest_at=rest_at,
    )
    if failure is None:
        return finish
    if is_progress:
        return replace(finish, state=State.RETRYING, due_at=now, word=failure.code)
    error: dict[str, object] = {
        "code": failure.code,
        "message": failure.message,
        "attempt": lease.attempts,
    }
    finish = replace(finish, state=State.FAILED, word=failure.code, error=error)
    if not may_try_again(failure, lease.attempts):
        return finish
    wait_s = RETRY_DELAYS_S[min(lease.attempts, len(RETRY_DELAYS_S)) - 1]
    wait_s = max(wait_s, min(failure.blocked_for_s or 0.0, BLOCK_MAX_S))
    return replace(finish, state=State.RETRYING, due_at=now + timedelta(seconds=wait_s))


def cost_after(fetched: Fetched, *, is_done: bool) -> int:
    """Return what a sync of the target is known to cost: what one took that read everything, else at least as before."""
    lease, requests = fetched.lease, fetched.requests
    is_whole = is_done and requests > 0 and not lease.read
    return min(max(1, requests if is_whole else max(lease.cost, requests)), COST_MAX)


def may_try_again(failure: Failure, attempts: int) -> bool:
    """Whether the same run goes on after this many attempts."""
    return failure.may_retry and attempts < min(failure.tries_max or ATTEMPTS_MAX, ATTEMPTS_MAX)


def failure_of(error: ProviderError) -> Failure:
    """Read what a provider's error means for what comes next."""
    blocked = None
    if isinstance(error, ProviderRateLimited) and error.scope is ErrorScope.PROVIDER:
        blocked = RETRY_DELAYS_S[0] if error.retry_after_s is None else error.retry_after_s
    return Failure(
        code=error.code,
        message=str(error),
        may_retry=error.retry is Retry.LATER,
        tries_max=error.tries_max,
        counts_as_outage=error.counts_as_outage,
        blocked_for_s=blocked,
    )


def refill(budget: Budget, *, now: datetime) -> Budget:
    """Return the budget with what time has added; a clock that went back adds nothing.

    After one that was more than 1 s ahead, time and day count again from now.
    """
    elapsed_s = (now - budget.refilled_at).total_seconds()
    today = now.astimezone(UTC).date()
    if elapsed_s < -CLOCKS_APART_S:
        return replace(budget, refilled_at=now, daily_on=min(today, budget.daily_on))
    used = 0 if today > budget.daily_on else budget.daily_used
    if elapsed_s <= 0:
        return replace(budget, daily_used=used, daily_on=max(today, budget.daily_on))
    tokens = min(budget.burst, budget.tokens + budget.rate_per_s * elapsed_s)
    return replace(
        budget,
        tokens=tokens,
        refilled_at=now,
        daily_used=used,
        daily_on=max(today, budget.daily_on),
    )


def grant_of(budget: Budget, in_flight: int, *, now: datetime) -> Grant:
    """Return how many targets may be leased now, with one request each, of a refilled budget.

    Tokens, the day and the slots (one per lease) each limit it; of each, `login_share` is kept for logins. While it is
    paused, blocked or its circuit is open nothing is granted; when a circuit's time is over, one request is, and its
    outcome decides.
    """
    if is_stopped(budget, now=now):
        return Grant(0, 0)
    if budget.circuit is not Circuit.CLOSED:
        is_over = budget.circuit_until is None or now >= budget.circuit_until
        may_probe = is_over and in_flight == 0 and budget.tokens >= 1
        return Grant(1, 1) if may_probe else Grant(0, 0)
    slots = budget.in_flight_max - in_flight
    kept = math.floor(budget.login_share * budget.in_flight_max)
    free = requests_of(budget)
    login = max(0, min(free.login, slots))
    return Grant(login, max(0, min(login, free.background, slots - kept)))


def permits_of(budget: Budget, *, now: datetime) -> Grant | None:
    """Return how many further requests those in flight may send now; None: they have to end, the source is not asked."""
    if is_stopped(budget, now=now) or budget.circuit is Circuit.OPEN:
        return None
    free = requests_of(budget)
    if budget.daily_limit is not None and budget.daily_used >= budget.daily_limit:
        return None
    return free


def is_stopped(budget: Budget, *, now: datetime) -> bool:
    """Whether somebody paused the source, or it asked us to wait."""
    is_blocked = budget.blocked_until is not None and now < budget.blocked_until
    return is_blocked or budget.paused_at is not None


def requests_of(budget: Budget) -> Grant:
    """Return what tokens and day leave; what is kept for logins is not left to others."""
    kept = math.floor(budget.login_share * budget.burst)
    login, background = math.floor(budget.tokens), math.floor(budget.tokens - kept)
    if budget.daily_limit is not None:
        left = budget.daily_limit - budget.daily_used
        login = min(login, left)
        background = min(background, left - math.floor(budget.login_share * budget.daily_limit))
    return Grant(max(0, login), max(0, min(login, background)))


def spend(budget: Budget, requests: int) -> Budget:
    """Return the budget after granting requests; one granted by an open circuit makes it half-open."""
    if requests == 0:
        return budget
    circuit = Circuit.HALF_OPEN if budget.circuit is Circuit.OPEN else budget.circuit
    return replace(
        budget,
        tokens=budget.tokens - requests,
        daily_used=budget.daily_used + requests,
        circuit=circuit,
    )


def after_results(budget: Budget, fetched: Sequence[Fetched], *, now: datetime) -> Budget:
    """Return the budget after outcomes: who asked us to wait is obeyed, who fails again and again is left alone.

    Five outages in a row open the circuit, for 10 s, then twice as long each time, up to 5 min; an answer closes it.
    Outcomes that come late, while it is open, change nothing.
    """
    failures = [f for one in fetched for f in (one.failure, *one.problems) if f is not None]
    blocked = [min(f.blocked_for_s, BLOCK_MAX_S) for f in failures if f.blocked_for_s is not None]
    if blocked:
        until = now + timedelta(seconds=max(blocked))
        budget = replace(budget, blocked_until=max(until, budget.blocked_until or until))
    outages = sum(f.counts_as_outage for f in failures)
    answers = sum(one.requests > 0 and one.failure is None for one in fetched)
    if budget.circuit is Circuit.OPEN:
        return budget
    if answers:
        return replace(
            budget,
            circuit=Circuit.CLOSED,
            circuit_until=None,
            circuit_failures=0,
            circuit_openings=0,
        )
    in_a_row = budget.circuit_failures + outages
    if outages and (budget.circuit is Circuit.HALF_OPEN or in_a_row >= CIRCUIT_THRESHOLD):
        open_s = min(CIRCUIT_OPEN_S * 2**budget.circuit_openings, CIRCUIT_OPEN_MAX_S)
        return replace(
            budget,
            circuit=Circuit.OPEN,
            circuit_until=now + timedelta(seconds=open_s),
            circuit_failures=in_a_row,
            circuit_openings=min(budget.circuit_openings + 1, 10),
        )
    return replace(budget, circuit_failures=in_a_row)


def refusal_of(standing: tuple[str, str, int] | None) -> Reason | None:
    """Return why a user is not synced, from status, context and number of active accounts; None: may be."""
    if standing is None:
        return Reason.UNKNOWN_USER
    status, context, accounts = standing
    if status != "active":
        return Reason.INACTIVE
    if context != "MOBILE_BANKING":
        return Reason.WALLET
    return None if accounts else Reason.NO_ACCOUNTS
