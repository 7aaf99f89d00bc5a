"""The ticks: every process looks for schedules that are due, and each tick begins one run."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId
from steelyard.jobs.model import Kinds, RunRequest
from steelyard.jobs.request_run import request_run
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.runtime.errors_out import report_error
from steelyard.schedules import store
from steelyard.schedules.defaults import DEFAULT_NAMES, make_defaults
from steelyard.schedules.model import Due, Family
from steelyard.schedules.rules import next_tick

LOOK_EVERY_S: Final = 1.0
TENANTS_EVERY_S: Final = 60.0
LEFT_ALONE_S: Final = 60.0
PAGE: Final = 200
AT_ONCE: Final = 4
TICKS_PASSED_BY: Final = 5_000
"""Of one schedule at one look."""

_log = structlog.get_logger()
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Ticked:
    """A tick and the run that it began."""

    planned_for: datetime
    run: int
    late_s: float


async def tick(uow: UnitOfWork, name: str, kinds: Kinds, *, now: datetime) -> Ticked | None:
    """Begin the run of a schedule whose tick has come, or change nothing; the caller commits.

    However many look at the same time, one has the row and the others pass by. What commits with the run is that
    this tick was, and when the next one is: whoever is killed leaves all of it or nothing. Ticks that were missed
    are one run, for the oldest of them. A clock that was put back finds the ticks that were, and passes them by.

    Returns:
        None where nothing was due, somebody else has the row, or every tick until now was before.
    Raises:
        InvalidInput: This machine does not know the schedule's zone.
    """
    schedule = await store.lock_free_schedule(uow, name)
    if schedule is None or schedule.next_at is None or schedule.next_at > now:
        return None
    planned: datetime | None = schedule.next_at
    were = await store.list_ticks(uow, name, since=schedule.next_at, limit=TICKS_PASSED_BY)
    while planned in were:
        planned = next_tick(schedule.rule, planned)
    if planned is None or planned > now or len(were) == TICKS_PASSED_BY:
        await store.move_schedule(uow, name, next_at=planned, now=now)
        return None
    wanted = RunRequest(
        schedule.subject,
        schedule.arguments,
        planned_for=planned,
        schedule=name,
        requested_by=f"schedule:{name}",
    )
    requested = await request_run(uow, kinds.get(schedule.kind).kind, wanted, now=now)
    due, next_at = Due(uow.tenant, name, planned), next_tick(schedule.rule, now)
    await store.record_tick(uow, due, requested.run, next_at=next_at, now=now)
    return Ticked(planned, requested.run, (now - planned).total_seconds())


async def count_again(uow: UnitOfWork, name: str, *, now: datetime) -> bool:
    """Find the next tick again where a clock that was ahead found it; the caller commits.

    What that clock let run early is written, so it does not run again; what it passed over does run.

    Returns:
        Whether it was so.
    """
    schedule = await store.lock_free_schedule(uow, name)
    if schedule is None or not schedule.is_on or not schedule.was_counted_ahead(now):
        return False
    await store.move_schedule(uow, name, next_at=next_tick(schedule.rule, now), now=now)
    return True


@dataclass(slots=True)
class Scheduler:
    """Looks for what is due, for all tenants; any number of processes may have one.

    Args:
        kinds: Schedules of other kinds are left to processes that know them.
        families: Schedules of other families are left alone.
        on_ticked: Called when runs were begun, so that a worker here looks at once.
    """

    database: Database
    clock: Clock
    kinds: Kinds
    families: tuple[Family, ...] = tuple(Family)
    on_ticked: Callable[[], None] = lambda: None
    ticks: int = 0
    failures: int = 0
    late_s: float = 0.0
    """By how much the newest tick was late."""
    _left_alone: dict[tuple[TenantId, str], float] = field(default_factory=dict)
    _tenants_at_s: float = float("-inf")

    async def tick_once(self) -> int:
        """Begin everything that is due now. Returns how many ticks this process began.

        Raises:
            DatabaseUnavailable: The database did not answer; what was not begun is due still.
        """
        await self._make_defaults()
        await self._count_again()
        begun, after = 0, None
        while True:
            due = await store.list_due(
                self.database,
                self.kinds.names,
                self.families,
                after=after,
                limit=PAGE,
                now=self.clock.now(),
            )
            for first in range(0, len(due), AT_ONCE):
                begun += await self._tick_together(due[first : first + AT_ONCE])
                if begun:
                    self.on_ticked()
            if len(due) < PAGE:
                return begun
            after = due[-1]

    async def _tick_together(self, due: Sequence[Due]) -> int:
        outcomes = await asyncio.gather(*map(self._tick, due), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return sum(outcome is True for outcome in outcomes)

    async def _tick(self, due: Due) -> bool:
        async def act(uow: UnitOfWork) -> Ticked | None:
            return await tick(uow, due.name, self.kinds, now=self.clock.now())

        ticked = await self._apart(due.tenant, due.name, act)
        if ticked is None:
            return False
        self.ticks += 1
        self.late_s = ticked.late_s
        _log.info(
            "schedule.ticked",
            tenant=due.tenant,
            schedule=due.name,
            run=ticked.run,
            planned_for=ticked.planned_for.isoformat(),
            late_s=round(ticked.late_s, 3),
        )
        return True

    async def _count_again(self) -> None:
        found = await store.list_counted_ahead(self.database, limit=PAGE, now=self.clock.now())
        for tenant, name in found:

            async def act(uow: UnitOfWork, name: str = name) -> bool:
                return await count_again(uow, name, now=self.clock.now())

            if await self._apart(tenant, name, act):
                _log.warning("schedule.clock_was_ahead", tenant=tenant, schedule=name)

    async def _apart(
        self, tenant: TenantId, name: str, act: Callable[[UnitOfWork], Awaitable[Outcome]]
    ) -> Outcome | None:
        """Do something to one schedule in a unit of work of its own; None where that failed, or failed a moment ago."""
        key, now_s = (tenant, name), self.clock.monotonic_s()
        if self._left_alone.get(key, now_s) > now_s:
            return None
        self._left_alone.pop(key, None)
        try:
            async with self.database.unit_of_work(tenant) as uow:
                return await act(uow)
        except DatabaseUnavailable:
            raise
        # One schedule that cannot be begun must not hold up the others; it is looked at again in a minute.
        except Exception as error:
            self._left_alone[key] = now_s + LEFT_ALONE_S
            self.failures += 1
            _log.error("schedule.failed", tenant=tenant, schedule=name, exc_info=error)
            report_error(error, task="schedules")
            return None

    async def _make_defaults(self) -> None:
        """Give schedules to tenants that are new; looks for them now and then."""
        now_s = self.clock.monotonic_s()
        if now_s - self._tenants_at_s < TENANTS_EVERY_S:
            return
        for tenant in await store.list_tenants_lacking(self.database, DEFAULT_NAMES, limit=PAGE):
            async with self.database.unit_of_work(tenant) as uow:
                await make_defaults(uow, now=self.clock.now())
        self._tenants_at_s = now_s


def families_of(*, syncs: bool) -> tuple[Family, ...]:
    """Return the families that tick: all, or all but those that pull from providers."""
    return tuple(family for family in Family if syncs or family is not Family.SYNC)
