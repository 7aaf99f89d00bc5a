"""Users whose balances are pulled: their accounts elsewhere, a target each, and what the source allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from steelyard.core.ids import AccountId
from steelyard.mirror.model import NewMirroredAccount
from steelyard.mirror.open_accounts import open_accounts
from steelyard.mirror.store import load_standings, lock_enrolment
from steelyard.providers.contract import Limits
from steelyard.runtime.database import UnitOfWork
from steelyard.runtime.settings import Settings
from steelyard.sync import store
from steelyard.sync.model import BALANCES, Budget
from steelyard.sync.rules import COST_MAX, first_due
from steelyard.sync.store import budgets


@dataclass(frozen=True, slots=True)
class Enrollment:
    """How targets are made: at which source, and how often they are due (None: only when asked for)."""

    provider: str
    interval: timedelta | None
    kind: str = BALANCES


def enrollment_of(settings: Settings, provider: str) -> Enrollment:
    """Return how targets at a source are made by the settings; an interval of 0 leaves only what is asked for."""
    interval_ms = settings.balance_sync_interval
    return Enrollment(provider, timedelta(milliseconds=interval_ms) if interval_ms else None)


async def enroll_accounts(
    uow: UnitOfWork,
    accounts: Sequence[NewMirroredAccount],
    enrollment: Enrollment,
    *,
    now: datetime,
) -> list[tuple[AccountId, bool]]:
    """Mirror accounts of users at one source and make each user a target; repeating it changes nothing.

    What a sync of a user costs is the number of its active accounts. First syncs are spread over the interval. Waits
    for others who enroll in the tenant.

    Returns:
        For each account: its id, and whether it was opened now.
    Raises:
        NotFound: A user does not exist, or the tenant keeps no book in a currency.
    """
    await lock_enrolment(uow)
    opened = await open_accounts(uow, accounts, now=now)
    users = sorted({account.user for account in accounts})
    standings = await load_standings(uow, users, enrollment.provider)
    targets = [
        (user, min(count, COST_MAX), first_due(uow.tenant, user, enrollment.interval, now=now))
        for user, (_, _, count) in sorted(standings.items())
        if count
    ]
    await store.add_targets(uow, enrollment.kind, enrollment.provider, targets)
    return opened


async def allow_requests(
    uow: UnitOfWork,
    provider: str,
    limits: Limits,
    *,
    now: datetime,
    burst: float | None = None,
    daily_limit: int | None = None,
) -> None:
    """Say what a source allows this tenant, for all processes together.

    A new budget begins empty, so that setting it again and again grants nothing. In any time t at most
    `burst` + rate * t requests are granted; `burst` is one second's worth, at least 1, unless given.
    """
    budget = Budget(
        rate_per_s=limits.requests_per_s,
        burst=max(1.0, limits.requests_per_s) if burst is None else burst,
        tokens=0.0,
        refilled_at=now,
        in_flight_max=limits.in_flight,
        daily_on=now.date(),
        daily_limit=daily_limit,
    )
    await budgets.set_limits(uow, provider, budget)
