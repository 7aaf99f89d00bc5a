"""Once a minute, what rests is put right: who may be synced again gets a target, and no target rests for longer than
the settings of today say.

Users change in a slice below this one, and nothing there knows of syncs: so those whose target was removed are
remembered, and looked at here. A target that was planned when the period was longer, or when nothing was synced by
itself (`BALANCE_SYNC_INTERVAL=0`), is given a moment in the next period, spread as new ones are.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId, UserId
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.model import BALANCES
from steelyard.sync.rules import COST_MAX, Cadence, first_due, latest_due, most_targets
from steelyard.sync.store import tending
from steelyard.sync.store.budgets import find_budget

_log = structlog.get_logger()

AT_ONCE = 1_000
TEND_EVERY_S = 60.0


@dataclass(slots=True)
class TargetTender:
    """Of one process; any number may do the same at once."""

    database: Database
    clock: Clock
    providers: Sequence[str]
    interval: timedelta | None
    every_s: float = TEND_EVERY_S

    async def run(self) -> None:
        """Tend until cancelled; a turn that failed is made again with the next one."""
        while True:
            try:
                await self.tend()
            except (DatabaseUnavailable, asyncpg.PostgresError) as error:
                _log.warning("sync.not_tended", reason=str(error))
            await asyncio.sleep(self.every_s)

    async def tend(self) -> tuple[int, int]:
        """Do it once, for all tenants. Returns how many targets came back and how many were planned anew."""
        returned = moved = 0
        for tenant, provider in await tending.list_sources(self.database, self.providers):
            returned += await self._bring_back(tenant, provider)
            moved += await self._plan_anew(tenant, provider)
        if returned or moved:
            _log.info("sync.tended", returned=returned, moved=moved)
        return returned, moved

    async def _bring_back(self, tenant: TenantId, provider: str) -> int:
        count, after = 0, None
        while True:
            async with self.database.unit_of_work(tenant) as uow:
                users = await tending.list_returned(
                    uow, BALANCES, provider, after=after, limit=AT_ONCE
                )
                now = self.clock.now()
                targets = [
                    (user, min(accounts, COST_MAX), first_due(tenant, user, self.interval, now=now))
                    for user, accounts in users
                ]
                await store.add_targets(uow, BALANCES, provider, targets)
                await tending.forget_removed(uow, BALANCES, provider, [user for user, _ in users])
            count += len(users)
            if len(users) < AT_ONCE:
                return count
            after = users[-1][0]

    async def _plan_anew(self, tenant: TenantId, provider: str) -> int:
        if self.interval is None:
            return 0
        count = 0
        while True:
            async with self.database.unit_of_work(tenant) as uow:
                budget = await find_budget(uow, provider)
                if budget is None:
                    return count
                most = most_targets(Cadence(self.interval, 0), budget)
                load = await store.count_targets(uow, provider, most=most + 1)
                now = self.clock.now()
                latest = latest_due(Cadence(self.interval, load), budget, now=now)
                users: list[UserId] = await tending.lock_late_targets(
                    uow, BALANCES, provider, after=latest, limit=AT_ONCE
                )
                moments = [
                    (user, first_due(tenant, user, self.interval, now=now)) for user in users
                ]
                await tending.move_targets(uow, BALANCES, moments)
            count += len(users)
            if len(users) < AT_ONCE:
                return count
