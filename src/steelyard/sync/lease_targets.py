"""Taking work: never more than the source's budget grants, whoever else takes some at the same moment."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from steelyard.core.clock import Clock
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.sync import store
from steelyard.sync.model import Budget, Circuit, Grant, Lane, Lease
from steelyard.sync.rules import grant_of, is_stopped, refill, spend
from steelyard.sync.store import budgets


@dataclass(frozen=True, slots=True)
class Taker:
    """Who leases, and for how long."""

    worker: str
    lease_s: float
    clock: Clock


@dataclass(frozen=True, slots=True)
class Taken:
    """Leases, and why there are not more."""

    leases: list[Lease]
    rate_per_s: float
    is_limited: bool
    """The budget was what limited them: look again when it has grown."""
    is_locked: bool = False
    """Somebody else has the budget's row: nothing is known of it."""
    opens_s: float | None = None
    """Nothing is granted for so many seconds, and then something may be."""


async def lease_lane(
    database: Database, lane: Lane, taker: Taker, *, slots: Grant, lock_wait_s: float | None = None
) -> Taken:
    """Lease due targets of one lane: granted by its budget and by the worker's own free `slots`.

    The budget's row is locked from before the grant until the leases are committed, so that workers grant one after
    the other. Each lease has one request; for any other the worker takes a permit.

    Args:
        database: Where the targets are.
        lane: Of which tenant and source.
        taker: Who leases.
        slots: Targets the worker can take.
        lock_wait_s: Longest wait for the budget's row; 0: none, None: as long as the database lets it.
    """
    try:
        async with database.unit_of_work(lane.tenant) as uow:
            return await _lease(uow, lane, taker, slots=slots, lock_wait_s=lock_wait_s)
    except asyncpg.LockNotAvailableError:
        return Taken([], 1.0, is_limited=True, is_locked=True)


async def _lease(
    uow: UnitOfWork, lane: Lane, taker: Taker, *, slots: Grant, lock_wait_s: float | None
) -> Taken:
    if lock_wait_s == 0:
        found = await budgets.lock_free_budget(uow, lane.provider)
    else:
        if lock_wait_s is not None:
            await store.limit_lock_waits(uow, lock_wait_s)
        found = await budgets.lock_budget(uow, lane.provider)
    if found is None:
        return Taken([], 1.0, is_limited=False, is_locked=lock_wait_s == 0)
    now = taker.clock.now()
    budget = refill(found, now=now)
    in_flight = await store.count_in_flight(uow, lane.provider, now=now)
    granted = grant_of(budget, in_flight, now=now)
    grant = Grant(min(granted.login, slots.login), min(granted.background, slots.background))
    if grant.login == 0:
        is_limited = granted.login == 0 and not _is_shut(budget, now=now)
        opens_s = _opens_s(budget, now=now)
        return Taken([], budget.rate_per_s, is_limited=is_limited, opens_s=opens_s)
    leases = await store.lease_targets(
        uow, lane, grant, worker=taker.worker, lease_s=taker.lease_s, now=now
    )
    if leases:
        await budgets.save_budget(uow, lane.provider, spend(budget, len(leases)))
    return Taken(leases, budget.rate_per_s, is_limited=len(leases) >= granted.background)


def _is_shut(budget: Budget, *, now: datetime) -> bool:
    """Whether it takes somebody's word, a known moment or a probe's end until anything is granted: not looked for soon."""
    return is_stopped(budget, now=now) or budget.circuit is not Circuit.CLOSED


def _opens_s(budget: Budget, *, now: datetime) -> float | None:
    """Return seconds until what the source asked for, and its circuit, are over; None: they are, or somebody paused it."""
    known = [one for one in (budget.blocked_until, budget.circuit_until) if one is not None]
    ahead = [one for one in known if one > now]
    if budget.paused_at is not None or not ahead:
        return None
    return (max(ahead) - now).total_seconds()
