"""This process's part in jobs: asking for them, and the worker it runs, opened and closed with it."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from steelyard.core.clock import Clock
from steelyard.core.ids import IdSource, TenantId
from steelyard.jobs.in_process_engine import InProcessEngine
from steelyard.jobs.manage_runs import CancelElsewhere
from steelyard.jobs.model import HandledKind, Kinds, RequestedRun, RunRequest
from steelyard.jobs.port import JobEngine
from steelyard.jobs.request_run import request_run
from steelyard.jobs.run_jobs import JobFigures, JobRunner
from steelyard.jobs.worker import JobPlan, JobWorker
from steelyard.runtime.database import Database
from steelyard.runtime.settings import Settings

NAME_LENGTH: Final = 12

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobParts:
    """What jobs work with. `url`: where the database is, for an engine with connections of its own."""

    settings: Settings
    database: Database
    clock: Clock
    ids: IdSource
    url: str = field(repr=False)


@dataclass(slots=True)
class Jobs:
    """Jobs of any tenant. `worker` is None where this process only asks for them."""

    database: Database
    clock: Clock
    ids: IdSource
    kinds: Kinds
    engine: JobEngine
    figures: JobFigures
    worker: JobWorker | None = None
    cancel_elsewhere: Mapping[str, CancelElsewhere] = field(default_factory=dict)
    """What ends a run of a kind that is no job."""

    async def request(self, tenant: TenantId, kind: str, wanted: RunRequest) -> RequestedRun:
        """Queue a run of a kind, or share one that waits: as `request_run`, in a unit of work of its own.

        Raises:
            UnknownKind: There is no such kind.
            InvalidInput: The request is not acceptable.
            DatabaseUnavailable: The database did not answer.
        """
        handled = self.kinds.get(kind)
        async with self.database.unit_of_work(tenant) as uow:
            now = self.clock.now()
            made = await request_run(uow, handled.kind, wanted, now=now, ids=self.ids)
        self.wake()
        return made

    def wake(self) -> None:
        """Let this process's worker look at once, where there is one."""
        if self.worker is not None:
            self.worker.wake()


@asynccontextmanager
async def open_jobs(
    parts: JobParts, kinds_of: Callable[[JobEngine], Iterable[HandledKind]], *, works: bool
) -> AsyncIterator[Jobs]:
    """Begin to work on jobs; on leaving, wait for those under way and hand the others back.

    Args:
        parts: What it works with.
        kinds_of: Gives the kinds with their handlers, which may use the engine.
        works: Whether this process works; else it only asks for jobs, and opens no engine.
    Raises:
        JobEngineUnusable: The engine of the settings cannot be used here.
        DatabaseUnavailable: The database does not answer.
    """
    engine = await open_engine(parts) if works else InProcessEngine()
    kinds, figures = Kinds(kinds_of(engine)), JobFigures()
    jobs = Jobs(parts.database, parts.clock, parts.ids, kinds, engine, figures)
    try:
        if not works or not kinds.names:
            yield jobs
            return
        name = parts.ids.new_id()[:NAME_LENGTH]
        runner = JobRunner(parts.database, parts.clock, kinds, name, figures)
        jobs.worker = JobWorker(
            parts.database, parts.clock, engine, runner, plan_of(parts.settings)
        )
        await jobs.worker.start()
        _log.info("jobs.started", worker=name, engine=parts.settings.job_engine)
        try:
            yield jobs
        finally:
            await jobs.worker.stop()
            _log.info("jobs.stopped", worker=name)
    finally:
        await engine.close()


async def open_engine(parts: JobParts) -> JobEngine:
    """Open the engine that the settings name.

    Raises:
        JobEngineUnusable: It cannot be used here.
        DatabaseUnavailable: The database does not answer.
    """
    if parts.settings.job_engine == "in_process":
        return InProcessEngine()
    from steelyard.jobs.errors import JobEngineUnusable

    try:
        from steelyard.jobs.procrastinate_engine import ProcrastinateEngine
    except (
        ImportError
    ) as error:  # psycopg has a wheel for most platforms, and needs libpq on the others
        raise JobEngineUnusable(problem=f"psycopg cannot be loaded ({error})") from error
    return await ProcrastinateEngine.open(parts.database, parts.url)


def plan_of(settings: Settings) -> JobPlan:
    """Return how this process's worker works."""
    return JobPlan(
        slots=settings.job_slots,
        look_every_s=settings.queue_process_interval / 1000,
        drain_s=settings.job_drain_ms / 1000,
    )
