"""How often the targets of each source are due: counted now and then, beside the work and never before it."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.rules import Cadence, most_targets
from steelyard.sync.store import budgets

COUNT_EVERY_S = 60.0
_log = structlog.get_logger()

Place = tuple[TenantId, str]


@dataclass(slots=True)
class Cadences:
    """Of one worker. Until a source was counted, it is taken to bear all of its targets."""

    database: Database
    clock: Clock
    interval: timedelta | None
    _known: dict[Place, Cadence] = field(default_factory=dict)
    _counted_s: dict[Place, float] = field(default_factory=dict)
    _counting: set[asyncio.Task[None]] = field(default_factory=set)

    def of(self, tenant: TenantId, provider: str) -> Cadence:
        """Return what is known of a source's targets."""
        return self._known.get((tenant, provider), Cadence(self.interval, 0))

    def refresh(self, place: Place) -> None:
        """Have the source's targets counted, if that was a minute ago; nobody waits for it."""
        now_s = self.clock.monotonic_s()
        if (
            self.interval is None
            or now_s - self._counted_s.get(place, -COUNT_EVERY_S) < COUNT_EVERY_S
        ):
            return
        self._counted_s[place] = now_s
        task = asyncio.create_task(self._count(place), name="sync.count_targets")
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    async def close(self) -> None:
        """Count no more."""
        tasks = list(self._counting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _count(self, place: Place) -> None:
        tenant, provider = place
        try:
            async with self.database.unit_of_work(tenant) as uow:
                budget = await budgets.find_budget(uow, provider)
                if budget is None:
                    return
                most = most_targets(Cadence(self.interval, 0), budget)
                targets = await store.count_targets(uow, provider, most=most + 1)
        except (DatabaseUnavailable, asyncpg.PostgresError) as error:
            self._counted_s.pop(place, None)
            _log.warning("sync.not_counted", tenant=tenant, provider=provider, reason=str(error))
            return
        self._known[place] = Cadence(self.interval, targets)
