"""A worker's hold on a job: each write asks whether it still holds."""

from collections.abc import Mapping
from dataclasses import dataclass

from steelyard.core.clock import Clock
from steelyard.jobs.errors import LeaseLost
from steelyard.jobs.model import State
from steelyard.jobs.store import queue
from steelyard.jobs.store.queue import Claim
from steelyard.runtime.database import Database, UnitOfWork


@dataclass(slots=True)
class JobHold:
    """What a handler writes through. `is_completed`: the handler ended the run in a unit of work of its own."""

    claim: Claim
    database: Database
    clock: Clock
    is_completed: bool = False

    async def check(self, uow: UnitOfWork) -> None:
        """As `RunContext.check`."""
        assert uow.tenant == self.claim.tenant, "a job writes in the tenant that asked for it"
        if not await queue.hold_job(uow, self.claim.run, self.claim.token):
            raise LeaseLost(run=self.claim.run)

    async def complete(self, uow: UnitOfWork, result: Mapping[str, object]) -> None:
        """As `RunContext.complete`."""
        await self.check(uow)
        now = self.clock.now()
        await queue.end_job(uow, self.claim, State.COMPLETED, result=result, now=now)
        self.is_completed = True

    async def progress(self, percent: int) -> None:
        """As `RunContext.progress`."""
        percent = min(max(percent, 0), 100)
        async with self.database.unit_of_work(self.claim.tenant) as uow:
            if not await queue.set_progress(uow, self.claim.run, self.claim.token, percent):
                raise LeaseLost(run=self.claim.run)
