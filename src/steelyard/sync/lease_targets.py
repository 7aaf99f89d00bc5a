"""Taking work: never more than the source's budget grants, whoever else takes some at the same moment."""

from dataclasses import dataclass

from steelyard.core.clock import Clock
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.model import Grant, Lane, Lease
from steelyard.sync.rules import grant_of, refill, room_of, spend


@dataclass(frozen=True, slots=True)
class Taker:
    """Who leases, and for how long."""

    worker: str
    lease_s: float
    clock: Clock


@dataclass(frozen=True, slots=True)
class Taken:
    """Leases, and when to look again if the budget was what limited them."""

    leases: list[Lease]
    rate_per_s: float
    is_limited: bool


async def lease_lane(database: Database, lane: Lane, taker: Taker, *, slots: Grant) -> Taken:
    """Lease due targets of one lane: granted by its budget and by the worker's own free `slots`.

    The budget's row is locked from before the grant until the leases are committed, so that workers grant one after
    the other. A target costs as many requests as its last sync sent; they go one after the other, in one slot.
    """
    async with database.unit_of_work(lane.tenant) as uow:
        found = await store.lock_budget(uow, lane.provider)
        if found is None:
            return Taken([], 1.0, False)
        now = taker.clock.now()
        budget = refill(found, now=now)
        in_flight = await store.count_in_flight(uow, lane.provider, now=now)
        granted = grant_of(budget, in_flight, now=now)
        grant = Grant(min(granted.login, slots.login), min(granted.background, slots.background))
        if grant.login == 0:
            return Taken([], budget.rate_per_s, True)
        leases = await store.lease_targets(
            uow,
            lane,
            grant,
            room_of(budget),
            worker=taker.worker,
            lease_s=taker.lease_s,
            now=now,
        )
        requests = sum(lease.cost for lease in leases)
        if requests:
            await store.save_budget(uow, lane.provider, spend(budget, requests))
    return Taken(leases, budget.rate_per_s, requests >= grant.background)
