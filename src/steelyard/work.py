"""What a process does in the background: it pulls balances, works on jobs and begins those that are scheduled.

Here every kind of job is listed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from steelyard.jobs.in_process_engine import InProcessEngine
from steelyard.jobs.model import HandledKind, Kinds
from steelyard.jobs.open_jobs import JobParts, Jobs, open_jobs
from steelyard.jobs.port import JobEngine
from steelyard.jobs.retention import Retention, clean_up_kind
from steelyard.reconcile.run_kinds import ReconcileParts, reconcile_kinds
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.database import Database
from steelyard.runtime.ids import RandomIds
from steelyard.runtime.repeat import repeat
from steelyard.runtime.settings import Settings
from steelyard.schedules.run_schedules import LOOK_EVERY_S, Scheduler, families_of
from steelyard.sync.cancel_run import CancelSyncRun
from steelyard.sync.model import BALANCES
from steelyard.sync.open_sync import BalanceSync, SyncParts, open_sync


@dataclass(frozen=True, slots=True)
class Work:
    """What works in the background, or only asks others to."""

    sync: BalanceSync
    jobs: Jobs
    scheduler: Scheduler


def job_kinds(parts: SyncParts, engine: JobEngine) -> list[HandledKind]:
    """Return the kinds of jobs of this release, with what does their work."""
    kept = timedelta(days=parts.settings.run_retention_days)
    retention = Retention(parts.database, parts.clock, kept)
    return [
        *reconcile_kinds(ReconcileParts(parts.bus, parts.cache)),
        clean_up_kind(retention, engine),
    ]


def known_kinds(settings: Settings, database: Database) -> Kinds:
    """Return the kinds for those who ask for jobs and work on none, such as commands."""
    clock = SystemClock()
    parts = SyncParts(settings, database, clock, RandomIds(), InProcessBus(), InProcessCache(clock))
    return Kinds(job_kinds(parts, InProcessEngine()))


@asynccontextmanager
async def open_work(parts: SyncParts, url: str, *, works: bool) -> AsyncIterator[Work]:
    """Begin to work, where this process is to; on leaving, end what is under way and hand back the rest.

    Raises:
        ProviderUnusable: The settings of the core bank do not fit together.
        JobEngineUnusable: The engine of the settings cannot be used here.
        DatabaseUnavailable: The database does not answer.
    """
    job_parts = JobParts(parts.settings, parts.database, parts.clock, parts.ids, url)
    async with AsyncExitStack() as closing:
        sync = await closing.enter_async_context(open_sync(parts, starts=works))
        kinds_of = partial(job_kinds, parts)
        jobs = await closing.enter_async_context(open_jobs(job_parts, kinds_of, works=works))
        jobs.cancel_elsewhere = {BALANCES: CancelSyncRun.of(parts.settings, parts.clock)}
        families = families_of(syncs=parts.settings.sync_scheduler_enabled)
        scheduler = Scheduler(parts.database, parts.clock, jobs.kinds, families, jobs.wake)
        if works:
            await closing.enter_async_context(_ticking(scheduler))
        yield Work(sync, jobs, scheduler)


@asynccontextmanager
async def _ticking(scheduler: Scheduler) -> AsyncIterator[None]:
    """Look for schedules that are due, every second; a tick that is under way on leaving is undone."""
    looking = repeat("schedules", scheduler.tick_once, every_s=LOOK_EVERY_S)
    task = asyncio.create_task(looking, name="schedules")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
