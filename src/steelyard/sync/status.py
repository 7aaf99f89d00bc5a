"""How much waits and whether somebody is at work, in the whole installation."""

from steelyard.core.clock import Clock
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.model import SyncStatus

COUNT_MAX = 100_000
"""Due targets are counted up to here, per tenant and source."""


async def load_status(database: Database, clock: Clock) -> SyncStatus:
    """Return what is due now, logins and the rest apart, and whether any lease is held."""
    lanes = await store.list_lanes(database, None, count=COUNT_MAX, now=clock.now())
    return SyncStatus(
        priority=sum(lane.priority_due for lane in lanes),
        background=sum(lane.background_due for lane in lanes),
        processing=any(lane.in_flight for lane in lanes),
        lanes=tuple(lanes),
    )
