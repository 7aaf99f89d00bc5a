"""Workers that sleep, die and end: a job's effect is there once, whoever wakes late."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.jobs.cancel_run import cancel_run
from steelyard.jobs.errors import LeaseLost
from steelyard.jobs.model import HandledKind, Handler, Kinds, RunContext
from steelyard.jobs.run_jobs import JobRunner
from steelyard.jobs.store import queue
from steelyard.jobs.worker import LOSSES_MAX
from steelyard.runtime.database import Database, UnitOfWork, connect
from tests.jobs_kit import ENGINES, KIND, QUICK, OpenEngine, ask, rows, until_state, working
from tests.world import LOGIN, World

AGAIN = timedelta(seconds=1)


async def note(uow: UnitOfWork, worker: str) -> None:
    """The effect of the jobs here: a line of the audit record."""
    await uow.execute(
        "INSERT INTO steelyard.audit (tenant_id, at, actor, actor_role, action, outcome) "
        "VALUES ($1, now(), $2, 'service', 'count', 'done')",
        uow.tenant,
        worker,
    )


async def effects_of(world: World) -> list[tuple[object, ...]]:
    return await rows(world, "SELECT actor FROM steelyard.audit WHERE action = 'count' ORDER BY id")


@dataclass
class Sleepers:
    """Handlers of several workers; one of them sleeps before it writes."""

    sleeper: str = "sleeper"
    completes: bool = False
    """Whether the run ends in the unit of work of the effect."""
    began: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    asleep: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def handler(self, worker: str) -> Handler:
        async def handle(context: RunContext) -> Mapping[str, object]:
            self.began.append(worker)
            if worker == self.sleeper:
                self.asleep.set()
                await self.wake.wait()
            try:
                async with context.database.unit_of_work(context.tenant) as uow:
                    if self.completes:
                        await note(uow, worker)
                        await context.complete(uow, {"by": worker})
                    else:
                        await context.check(uow)
                        await note(uow, worker)
            except LeaseLost:
                self.refused.append(worker)
                raise
            return {"by": worker}

        return handle


@asynccontextmanager
async def asleep(world: World, sleepers: Sleepers) -> AsyncIterator[JobRunner]:
    """A process that has begun the one job there is and sleeps: no sign of life comes from it. It wakes at the end."""
    handled = HandledKind(KIND, sleepers.handler(sleepers.sleeper))
    database = await Database.open(world.fresh.app_url, pool_size=2)
    runner = JobRunner(database, world.clock, Kinds([handled]), sleepers.sleeper)
    await runner.beat()
    now = world.clock.now()
    [ticket] = await queue.hand_over(database, [KIND.name], limit=9, again=AGAIN, now=now)
    running = asyncio.create_task(runner.deliver(ticket))
    await sleepers.asleep.wait()
    try:
        yield runner
    finally:
        sleepers.wake.set()
        await running
        await database.close()


@pytest.mark.parametrize("completes", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_worker_that_was_asleep_cannot_write_what_another_has_done(
    world: World, engine: OpenEngine, *, completes: bool
) -> None:
    sleepers = Sleepers(completes=completes)
    made = await ask(world)
    awake = sleepers.handler("awake")
    async with (
        asleep(world, sleepers) as sleeper,
        working(world, awake, engine=engine, name="awake") as worker,
    ):
        await until_state(world, made.run, "completed")
        assert worker.runner.figures.rescued == 1
    assert sleepers.began == ["sleeper", "awake"]
    assert sleepers.refused == ["sleeper"]
    assert (sleeper.figures.lost, sleeper.figures.completed) == (1, {})
    assert await effects_of(world) == [("awake",)]
    assert await rows(world, "SELECT state, attempts, result::text FROM steelyard.run") == [
        ("completed", 2, '{"by": "awake"}')
    ]


async def test_a_worker_that_was_asleep_cannot_write_while_another_has_the_job(
    world: World,
) -> None:
    first, second = Sleepers(), Sleepers(sleeper="second")
    made = await ask(world)
    async with (
        asleep(world, first) as sleeper,
        working(world, second.handler("second"), name="second"),
    ):
        await second.asleep.wait()
        first.wake.set()
        async with asyncio.timeout(20):
            while sleeper.active:  # noqa: ASYNC110 - it tells nobody when it ends
                await asyncio.sleep(0.01)
        assert first.refused == ["sleeper"]
        assert await effects_of(world) == []
        second.wake.set()
        await until_state(world, made.run, "completed")
    assert await effects_of(world) == [("second",)]


async def test_a_worker_that_slept_while_nobody_took_its_job_goes_on(world: World) -> None:
    sleepers = Sleepers()
    made = await ask(world)
    async with asleep(world, sleepers):
        pass
    assert await rows(world, "SELECT id, state, attempts FROM steelyard.run") == [
        (made.run, "completed", 1)
    ]
    assert await effects_of(world) == [("sleeper",)]


async def lose_a_worker(world: World, name: str) -> bool:
    """A process begins the job and dies: `kill -9`. Whether there was one to begin."""
    long_ago = world.clock.now() - timedelta(minutes=1)
    await queue.beat(world.database, name, [], [], now=long_ago)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        [(run,)] = await uow.fetch("SELECT run_id FROM steelyard.job")
        claim = await queue.claim_job(uow, run, worker=name, now=world.clock.now())
    return claim is not None


async def rescue(world: World) -> list[str]:
    found = await queue.rescue(
        world.database,
        stalled=timedelta(seconds=15),
        losses_max=LOSSES_MAX,
        limit=9,
        now=world.clock.now(),
    )
    return [str(state) for *_, state in found]


async def test_a_lost_worker_costs_no_attempt_but_five_make_a_dead_letter(world: World) -> None:
    made = await ask(world, kind=replace(KIND, attempts_max=1))
    for number in range(1, LOSSES_MAX + 1):
        assert await lose_a_worker(world, f"doomed-{number}")
        state = "failed" if number == LOSSES_MAX else "retrying"
        assert await rescue(world) == [state]
        assert await rows(
            world, "SELECT state, attempts, error ->> 'code', error_category FROM steelyard.run"
        ) == [(state, number, "worker_lost", "worker")]
    assert await rescue(world) == []
    assert await rows(world, "SELECT run_id, state FROM steelyard.job") == [(made.run, "dead")]
    [(result,)] = await rows(world, "SELECT result ->> 'success' FROM steelyard.run")
    assert result == "false"


async def test_a_stalled_job_whose_end_was_asked_for_ends(world: World) -> None:
    made = await ask(world)
    await lose_a_worker(world, "doomed")
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        await cancel_run(uow, made.run, now=world.clock.now())
    assert await rescue(world) == ["cancelled"]
    assert await rows(world, "SELECT state FROM steelyard.run") == [("cancelled",)]
    assert await rows(world, "SELECT state FROM steelyard.job") == []


async def test_a_worker_that_gives_signs_of_life_keeps_its_jobs(world: World) -> None:
    await ask(world)
    await lose_a_worker(world, "slow")
    await queue.beat(world.database, "slow", [], [], now=world.clock.now())
    assert await rescue(world) == []


async def test_a_job_that_its_living_worker_no_longer_works_on_is_rescued(world: World) -> None:
    made = await ask(world)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        now = world.clock.now() - timedelta(seconds=10)
        await uow.execute("UPDATE steelyard.job SET due_at = $1", now)
        await queue.claim_job(uow, made.run, worker="worker-1", now=now)
    async with working(world, name="worker-1"):
        await until_state(world, made.run, "completed")


async def test_who_sleeps_in_a_unit_of_work_that_holds_a_job_loses_it(world: World) -> None:
    made = await ask(world)
    stalled = timedelta(milliseconds=200)
    asleep, served = asyncio.Event(), asyncio.Event()

    async def sleep_in_a_unit_of_work() -> None:
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            assert await queue.hold_job(uow, made.run, 1)
            asleep.set()
            await served.wait()
            await uow.fetchval("SELECT 1")

    await lose_a_worker(world, "doomed")
    sleeping = asyncio.create_task(sleep_in_a_unit_of_work())
    await asleep.wait()
    await asyncio.sleep(0.3)
    assert await rescue(world) == []
    soon = world.clock.now() + timedelta(minutes=1)
    await queue.beat(world.database, "doomed", [], [], now=soon)
    assert await queue.end_sleepers(world.database, stalled=stalled, now=world.clock.now()) == 0
    await queue.leave(world.database, "doomed")
    assert await queue.end_sleepers(world.database, stalled=stalled, now=world.clock.now()) == 1
    served.set()
    with pytest.raises(DatabaseUnavailable):
        await sleeping
    assert await rescue(world) == ["retrying"]


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_worker_that_ends_hands_back_what_takes_too_long(
    world: World, engine: OpenEngine
) -> None:
    began = asyncio.Event()
    attempts: list[int] = []

    async def handle(context: RunContext) -> Mapping[str, object]:
        attempts.append(context.attempt)
        began.set()
        await asyncio.sleep(60 if len(attempts) == 1 else 0)
        return {}

    made = await ask(world, kind=replace(KIND, attempts_max=1))
    async with working(world, handle, engine=engine):
        await began.wait()
    assert await rows(world, "SELECT state FROM steelyard.run") == [("retrying",)]
    assert await rows(world, "SELECT state, attempt, losses FROM steelyard.job") == [
        ("waiting", 0, 0)
    ]
    async with working(world, handle, engine=engine, name="worker-2"):
        await until_state(world, made.run, "completed")
    assert attempts == [1, 1]


async def test_a_worker_that_ends_waits_for_what_is_quick(world: World) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def handle(context: RunContext) -> Mapping[str, object]:
        began.set()
        await may_end.wait()
        return {}

    await ask(world)
    async with working(world, handle, plan=replace(QUICK, drain_s=20)) as worker:
        await began.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        may_end.set()
        await stopping
    assert await rows(world, "SELECT state, attempts FROM steelyard.run") == [("completed", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
async def test_jobs_go_on_though_the_database_drops_every_connection_again_and_again(
    world: World, engine: OpenEngine
) -> None:
    async def handle(context: RunContext) -> Mapping[str, object]:
        async with context.database.unit_of_work(context.tenant) as uow:
            await context.check(uow)
            await note(uow, context.subject)
            await context.complete(uow, {})
        return {}

    made = [await ask(world, f"s{number}") for number in range(30)]
    admin = await connect(world.fresh.admin_url)
    async with working(world, handle, engine=engine) as worker:
        for _ in range(6):
            await asyncio.sleep(0.1)
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name LIKE 'steelyard%' "
                "AND usename = $1",
                LOGIN,
            )
        for one in made:
            async with asyncio.timeout(60):
                await _until_completed(world, one.run)
        assert worker._working is not None
        assert not worker._working.done()
    await admin.close()
    assert sorted(await effects_of(world)) == sorted((f"s{number}",) for number in range(30))


async def _until_completed(world: World, run: int) -> None:
    admin = await connect(world.fresh.admin_url)
    try:
        sql = "SELECT state FROM steelyard.run WHERE id = $1"
        while await admin.fetchval(sql, run) != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    finally:
        await admin.close()
