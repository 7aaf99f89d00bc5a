"""Permits for what a target needs beyond its first request: each request is granted right before it is sent."""

import asyncio
from dataclasses import dataclass, field

import asyncpg
import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.model import Lease, Priority
from steelyard.sync.rules import permits_of, refill, spend
from steelyard.sync.store import budgets

_log = structlog.get_logger()

Place = tuple[TenantId, str]
ASK_EVERY_MIN_S = 0.02
LOCK_WAIT_S = 1.0


@dataclass(slots=True, eq=False)
class _Asking:
    is_login: bool
    told: asyncio.Future[bool]


@dataclass(slots=True)
class Permits:
    """Of one process: those who ask for the same source at the same time are one change of its budget."""

    database: Database
    clock: Clock
    _asking: dict[Place, list[_Asking]] = field(default_factory=dict)
    _granting: dict[Place, asyncio.Task[None]] = field(default_factory=dict)

    async def take(self, lease: Lease) -> bool:
        """Wait for a permit to send one more request. False: the source is not to be asked now, the attempt has to end.

        Logins go first. Who gives up waiting has spent nothing.
        """
        place = (lease.tenant, lease.provider)
        is_login = lease.priority >= Priority.LOGIN
        asking = _Asking(is_login, asyncio.get_running_loop().create_future())
        self._asking.setdefault(place, []).append(asking)
        if place not in self._granting:
            self._granting[place] = asyncio.create_task(self._grant(place), name="sync.permits")
        return await asking.told

    def is_waited_for(self, place: Place) -> bool:
        """Whether targets in flight wait for permits there: before them nothing new is begun but logins."""
        return any(not one.told.done() for one in self._asking.get(place, ()))

    async def close(self) -> None:
        """Grant nothing more; who still waits is told that the attempt has to end."""
        for task in list(self._granting.values()):
            task.cancel()
        await asyncio.gather(*self._granting.values(), return_exceptions=True)

    async def _grant(self, place: Place) -> None:
        try:
            while waiting := self._waiting(place):
                logins = sum(one.is_login for one in waiting)
                granted, again_s = await self._spend(place, logins, len(waiting) - logins)
                if granted is None:
                    return
                for one in waiting[:granted]:
                    if not one.told.done():
                        one.told.set_result(True)
                if self._waiting(place):
                    await asyncio.sleep(again_s)
        except (DatabaseUnavailable, asyncpg.PostgresError) as error:
            _log.warning("sync.no_permits", tenant=place[0], provider=place[1], reason=str(error))
        finally:
            self._granting.pop(place, None)
            for one in self._asking.pop(place, ()):
                if not one.told.done():
                    one.told.set_result(False)

    def _waiting(self, place: Place) -> list[_Asking]:
        """Return those who still wait: logins first, then first come, first served."""
        waiting = [one for one in self._asking.get(place, ()) if not one.told.done()]
        self._asking[place] = waiting
        return sorted(waiting, key=lambda one: not one.is_login)

    async def _spend(self, place: Place, logins: int, others: int) -> tuple[int | None, float]:
        """Take what there is from the budget. Returns how many requests were granted, and when to ask again."""
        tenant, provider = place
        async with self.database.unit_of_work(tenant) as uow:
            await store.limit_lock_waits(uow, LOCK_WAIT_S)
            found = await budgets.lock_budget(uow, provider)
            if found is None:
                return None, 0.0
            now = self.clock.now()
            budget = refill(found, now=now)
            free = permits_of(budget, now=now)
            if free is None:
                return None, 0.0
            of_logins = min(logins, free.login)
            of_others = min(others, max(0, min(free.background, free.login - of_logins)))
            if of_logins + of_others:
                await budgets.save_budget(uow, provider, spend(budget, of_logins + of_others))
        return of_logins + of_others, max(ASK_EVERY_MIN_S, 1.0 / budget.rate_per_s)
