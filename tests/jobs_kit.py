"""Workers on jobs, of one process or of several, on a world's database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from steelyard.core.clock import Clock
from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.jobs.in_process_engine import InProcessEngine
from steelyard.jobs.model import (
    HandledKind,
    Handler,
    Kind,
    Kinds,
    RequestedRun,
    RunContext,
    RunRequest,
)
from steelyard.jobs.port import JobEngine
from steelyard.jobs.procrastinate_engine import ProcrastinateEngine
from steelyard.jobs.request_run import request_run
from steelyard.jobs.run_jobs import JobRunner
from steelyard.jobs.worker import JobPlan, JobWorker
from steelyard.runtime.database import Database
from steelyard.runtime.ids import RandomIds
from tests.world import World

KIND = Kind("count-things", priority=7, delay_s=0.05)
QUICK = JobPlan(
    slots=4, look_every_s=0.05, beat_every_s=0.1, stalled_s=0.5, again_s=0.5, drain_s=0.2
)

OpenEngine = Callable[[World], Awaitable[JobEngine]]


async def in_process(world: World) -> JobEngine:
    return InProcessEngine()


async def on_procrastinate(world: World) -> JobEngine:
    return await ProcrastinateEngine.open(world.database, world.fresh.app_url)


ENGINES: Sequence[OpenEngine] = (in_process, on_procrastinate)


async def done(context: RunContext) -> Mapping[str, object]:
    return {"done": context.subject}


@asynccontextmanager
async def working(
    world: World,
    handler: Handler = done,
    *,
    kind: Kind = KIND,
    engine: OpenEngine = in_process,
    plan: JobPlan = QUICK,
    name: str = "worker-1",
    database: Database | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[JobWorker]:
    """A worker that knows one kind."""
    database, clock = database or world.database, clock or world.clock
    carrier = await engine(world)
    runner = JobRunner(database, clock, Kinds([HandledKind(kind, handler)]), name)
    worker = JobWorker(database, clock, carrier, runner, plan)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()
        await carrier.close()


async def ask(
    world: World,
    subject: str = "a",
    *,
    kind: Kind = KIND,
    tenant: TenantId = DEFAULT_TENANT,
    wanted: RunRequest | None = None,
) -> RequestedRun:
    """Queue a job as the API does."""
    wanted = wanted or RunRequest(subject)
    async with world.database.unit_of_work(tenant) as uow:
        return await request_run(uow, kind, wanted, now=world.clock.now(), ids=RandomIds())


async def rows(
    world: World, sql: str, *args: object, tenant: TenantId = DEFAULT_TENANT
) -> list[tuple[object, ...]]:
    """What a tenant sees."""
    async with world.database.unit_of_work(tenant) as uow:
        return [tuple(row) for row in await uow.fetch(sql, *args)]


async def state_of(world: World, run: int, *, tenant: TenantId = DEFAULT_TENANT) -> str:
    """Where a run stands."""
    [(state,)] = await rows(
        world, "SELECT state FROM steelyard.run WHERE id = $1", run, tenant=tenant
    )
    return str(state)


async def until_state(
    world: World, run: int, *states: str, tenant: TenantId = DEFAULT_TENANT, within_s: float = 30.0
) -> str:
    """Wait until a run stands at one of these."""
    async with asyncio.timeout(within_s):
        while (state := await state_of(world, run, tenant=tenant)) not in states:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return state


def patient(plan: JobPlan = QUICK, *, by: timedelta = timedelta(seconds=30)) -> JobPlan:
    """A worker whose jobs nobody takes within a test."""
    return replace(plan, stalled_s=by.total_seconds())
