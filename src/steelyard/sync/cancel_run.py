"""Ending the run of a sync: there is no job to end, but the state of its user's target."""

from dataclasses import dataclass
from datetime import timedelta

from steelyard.access.model import Principal
from steelyard.core.clock import Clock
from steelyard.core.ids import UserId
from steelyard.jobs.cancel_run import Cancelled
from steelyard.jobs.seen_run import SeenRun
from steelyard.runtime.database import UnitOfWork
from steelyard.runtime.settings import Settings
from steelyard.sync.control_sync import ControlOrder, cancel_sync
from steelyard.sync.open_sync import CORE_BANK


@dataclass(frozen=True, slots=True)
class CancelSyncRun:
    """Ends whatever was asked for of the user whose sync a run is. `interval`: the period; None: there is none."""

    clock: Clock
    interval: timedelta | None

    @classmethod
    def of(cls, settings: Settings, clock: Clock) -> "CancelSyncRun":
        """Return it for a process's settings."""
        interval_ms = settings.balance_sync_interval
        return cls(clock, timedelta(milliseconds=interval_ms) if interval_ms else None)

    async def __call__(self, uow: UnitOfWork, principal: Principal, run: SeenRun) -> Cancelled:
        """End the run, and another that its user's target has; what one in flight brings is not written.

        Raises:
            NotFound: The user is not synced any more.
        """
        order = ControlOrder(CORE_BANK, UserId(run.subject))
        ended = await cancel_sync(
            uow, principal, order, interval=self.interval, now=self.clock.now()
        )
        return Cancelled.CANCELLED if ended else Cancelled.ENDED
