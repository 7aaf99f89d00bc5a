"""What a simulated server does beside syncing: it begins what schedules say, and works on jobs."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from steelyard.access.model import system_principal
from steelyard.core.clock import Clock
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.jobs.in_process_engine import InProcessEngine
from steelyard.jobs.model import Kinds
from steelyard.jobs.retention import Retention, clean_up_kind
from steelyard.jobs.run_jobs import JobRunner
from steelyard.jobs.worker import JobPlan, JobWorker
from steelyard.reconcile.run_kinds import VERIFY_AND_FIX, ReconcileParts, reconcile_kinds
from steelyard.runtime.bus import ChangeBus
from steelyard.runtime.cache import BalanceCache
from steelyard.runtime.database import Database
from steelyard.runtime.repeat import repeat
from steelyard.schedules.edit_schedules import Edits, Wanted, put_schedule
from steelyard.schedules.model import Timing
from steelyard.schedules.run_schedules import Scheduler

OFTEN: Final = "verify-often"
OFTEN_MIN: Final = 10
"""A proof and repair of all balances every so many minutes, beside the schedules that every tenant has."""
RETENTION: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class UpkeepParts:
    """What upkeep works with, of one server."""

    database: Database
    clock: Clock
    bus: ChangeBus
    cache: BalanceCache
    look_every_s: float


@dataclass(slots=True)
class Upkeep:
    """Schedules and jobs of one server."""

    jobs: JobWorker
    ticking: "asyncio.Task[None]"

    @classmethod
    async def begin(cls, parts: UpkeepParts, name: str) -> "Upkeep":
        """Begin to look for ticks and to work."""
        engine = InProcessEngine()
        kinds = kinds_of(parts, engine)
        runner = JobRunner(parts.database, parts.clock, kinds, name)
        plan = JobPlan(look_every_s=parts.look_every_s, beat_every_s=20.0, stalled_s=60.0)
        jobs = JobWorker(parts.database, parts.clock, engine, runner, plan)
        await jobs.start()
        scheduler = Scheduler(parts.database, parts.clock, kinds, on_ticked=jobs.wake)
        looking = repeat("schedules", scheduler.tick_once, every_s=parts.look_every_s)
        return cls(jobs, asyncio.create_task(looking, name=f"{name}.schedules"))

    async def end(self) -> None:
        """End what is under way, or hand it back."""
        self.ticking.cancel()
        await asyncio.gather(self.ticking, return_exceptions=True)
        await self.jobs.stop()


def kinds_of(parts: UpkeepParts, engine: InProcessEngine) -> Kinds:
    """Return the kinds of jobs of a day."""
    retention = Retention(parts.database, parts.clock, RETENTION)
    proofs = reconcile_kinds(ReconcileParts(parts.bus, parts.cache))
    return Kinds([*proofs, clean_up_kind(retention, engine)])


async def put_schedules(parts: UpkeepParts) -> None:
    """Make the schedule of the day."""
    now = parts.clock.now()
    edits = Edits(system_principal(DEFAULT_TENANT, "day"), kinds_of(parts, InProcessEngine()), now)
    wanted = Wanted(VERIFY_AND_FIX.name, Timing(cron=f"*/{OFTEN_MIN} * * * *"))
    async with parts.database.unit_of_work(DEFAULT_TENANT) as uow:
        await put_schedule(uow, OFTEN, wanted, edits)
