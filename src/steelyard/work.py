"""What a process does in the background: it pulls balances and works on jobs. Here every kind of job is listed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from steelyard.jobs.model import HandledKind
from steelyard.jobs.open_jobs import JobParts, Jobs, open_jobs
from steelyard.jobs.port import JobEngine
from steelyard.jobs.retention import Retention, clean_up_kind
from steelyard.reconcile.run_kinds import ReconcileParts, reconcile_kinds
from steelyard.sync.open_sync import BalanceSync, SyncParts, open_sync


@dataclass(frozen=True, slots=True)
class Work:
    """What works in the background, or only asks others to."""

    sync: BalanceSync
    jobs: Jobs


def job_kinds(parts: SyncParts, engine: JobEngine) -> list[HandledKind]:
    """Return the kinds of jobs of this release, with what does their work."""
    kept = timedelta(days=parts.settings.run_retention_days)
    retention = Retention(parts.database, parts.clock, kept)
    return [
        *reconcile_kinds(ReconcileParts(parts.bus, parts.cache)),
        clean_up_kind(retention, engine),
    ]


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
        yield Work(sync, jobs)
