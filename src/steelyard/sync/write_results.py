"""What syncs brought, written: one unit of work for balances, runs, targets and budget of many at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from steelyard.core.clock import Clock
from steelyard.core.ids import TenantId
from steelyard.mirror.apply_readings import PublishReadings, apply_readings
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.sync import store
from steelyard.sync.model import Budget, Fetched, Finish
from steelyard.sync.rules import NEVER, Cadence, after_results, period_of, plan_finish
from steelyard.sync.store.budgets import find_budget, lock_budget, save_budget

LOCK_WAIT_S = 0.1
INELIGIBLE = {
    "code": "not_synced",
    "message": "the user is inactive, a WALLET user, or has no account there any more",
}


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes outcomes of one tenant after the other, then tells of what changed."""

    database: Database
    clock: Clock
    publish: PublishReadings

    async def write(
        self, tenant: TenantId, results: Sequence[Fetched], cadences: Mapping[str, Cadence]
    ) -> list[Finish]:
        """Write what came back and publish the changes after the commit.

        Results whose lease is no longer theirs change nothing: neither a balance nor a run.

        Args:
            tenant: Of all results.
            results: At most one per target.
            cadences: How often targets are due, by source.
        Returns:
            What was accepted.
        Raises:
            asyncpg.LockNotAvailableError: Somebody kept a row locked for more than 0.1 s; nothing was written.
        """
        async with self.database.unit_of_work(tenant) as uow:
            await store.limit_lock_waits(uow, LOCK_WAIT_S)
            now = self.clock.now()
            gone = [one.lease for one in results if one.is_ineligible]
            if gone:
                await store.remove_targets(uow, gone, reason=INELIGIBLE, now=now)
            asked = [one for one in results if not one.is_ineligible]
            budgets = await self._load_budgets(uow, asked)
            finishes = [_finish_of(one, cadences, budgets, now=now) for one in asked]
            accepted = await store.finish_targets(uow, finishes, now=now)
            held = {(one.lease.kind, one.lease.subject, one.lease.token) for one in accepted}
            readings = [
                balance
                for one in asked
                if (one.lease.kind, one.lease.subject, one.lease.token) in held
                for balance in one.balances
            ]
            events = await apply_readings(uow, readings, now=now)
            await self._judge_sources(uow, asked, budgets)
        self.publish(events)
        return accepted

    async def _load_budgets(
        self, uow: UnitOfWork, results: Sequence[Fetched]
    ) -> dict[str, Budget | None]:
        providers = sorted({one.lease.provider for one in results})
        return {provider: await find_budget(uow, provider) for provider in providers}

    async def _judge_sources(
        self, uow: UnitOfWork, results: Sequence[Fetched], budgets: Mapping[str, Budget | None]
    ) -> None:
        """Keep what outcomes say of the sources. Last, so that the budgets' rows are locked for a moment only."""
        for provider, known in budgets.items():
            theirs = [one for one in results if one.lease.provider == provider]
            if known is None or after_results(known, theirs, now=self.clock.now()) == known:
                continue  # as well as before: nobody has to wait for the row
            if (budget := await lock_budget(uow, provider)) is not None:
                judged = after_results(budget, theirs, now=self.clock.now())
                await save_budget(uow, provider, judged)


def _finish_of(
    one: Fetched,
    cadences: Mapping[str, Cadence],
    budgets: Mapping[str, Budget | None],
    *,
    now: datetime,
) -> Finish:
    cadence, budget = cadences.get(one.lease.provider), budgets[one.lease.provider]
    if cadence is None or budget is None:
        return plan_finish(one, NEVER, now=now)
    return plan_finish(one, period_of(cadence, budget, one.lease.last_login_at, now=now), now=now)
