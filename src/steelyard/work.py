"""What a process does in the background: it pulls balances and works on jobs. Here every kind of job is listed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from steelyard.jobs.model import HandledKind
from steelyard.jobs.open_jobs import JobParts, Jobs, open_jobs
from steelyard.jobs.port import JobEngine
from steelyard.sync.open_sync import BalanceSync, SyncParts, open_sync


@dataclass(frozen=True, slots=True)
class Work:
    """What works in the background, or only asks others to."""

    sync: BalanceSync
    jobs: Jobs


def job_kinds(engine: JobEngine) -> list[HandledKind]:  # noqa: ARG001 - clean-up will ask it
    """Return the kinds of jobs of this release, with what does their work."""
    return []


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
        jobs = await closing.enter_async_context(open_jobs(job_parts, job_kinds, works=works))
        yield Work(sync, jobs)
