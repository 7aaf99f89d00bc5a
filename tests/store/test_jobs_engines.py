"""Both engines keep the contract, and what procrastinate's own tables must be."""

from datetime import timedelta
from importlib import resources

import pytest

from steelyard.core.ids import DEFAULT_TENANT
from steelyard.jobs.errors import JobEngineUnusable
from steelyard.jobs.port import Ticket
from steelyard.jobs.procrastinate_engine import ProcrastinateEngine
from steelyard.runtime.migrations.run_sql import read_sql
from steelyard.testing.job_engine_contract import (
    JOB_ENGINE_CONTRACT,
    KIND,
    Delivered,
    JobEngineCheck,
    at_work,
)
from tests.jobs_kit import ENGINES, OpenEngine, on_procrastinate, rows
from tests.world import World


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("check", JOB_ENGINE_CONTRACT, ids=lambda check: check.__name__)
async def test_the_engine_keeps_the_contract(
    world: World, check: JobEngineCheck, engine: OpenEngine
) -> None:
    carrier = await engine(world)
    try:
        await check(carrier)
    finally:
        await carrier.close()


def test_the_tables_are_those_of_the_installed_procrastinate() -> None:
    theirs = resources.files("procrastinate").joinpath("sql/schema.sql").read_text("utf-8")
    assert theirs in read_sql("0006_procrastinate.sql"), (
        "procrastinate has another schema by now: make a revision with its migrations"
    )


async def test_its_rows_name_a_tenant_and_a_run_and_nothing_else(world: World) -> None:
    engine = await on_procrastinate(world)
    await engine.enqueue(Ticket(DEFAULT_TENANT, 7, KIND, 3))
    await engine.close()
    assert await rows(
        world,
        "SELECT queue_name, task_name, priority, lock, queueing_lock, args::text, status::text "
        "FROM steelyard_jobs.procrastinate_jobs",
    ) == [(KIND, "steelyard.run", 3, None, "default/7", "{}", "todo")]


async def test_tickets_of_a_worker_that_died_are_forgotten(world: World) -> None:
    engine = await on_procrastinate(world)
    await engine.enqueue(Ticket(DEFAULT_TENANT, 7, KIND))
    await world.database.fetch(
        "SELECT * FROM steelyard_jobs.procrastinate_fetch_job_v2(NULL, "
        "(SELECT worker_id FROM steelyard_jobs.procrastinate_register_worker_v1()))"
    )
    assert (await engine.counts())[KIND].active == 1
    assert await engine.rescue(stalled=timedelta(minutes=1)) == 0
    assert await engine.rescue(stalled=timedelta(0)) == 1
    assert await engine.counts() == {}
    await engine.close()


async def test_what_is_done_goes_when_it_is_old_or_beyond_the_newest(world: World) -> None:
    engine = await on_procrastinate(world)
    await engine.enqueue_many([Ticket(DEFAULT_TENANT, run, KIND) for run in range(1, 6)])
    heard = Delivered()
    heard.gate.set()
    async with at_work(engine, heard):
        await heard.until(done=5)
    assert await engine.delete_old(older_than=timedelta(days=7), newest_kept=2) == 3
    assert await engine.delete_old(older_than=timedelta(0), newest_kept=1000) == 2
    assert await rows(world, "SELECT id FROM steelyard_jobs.procrastinate_jobs") == []
    await engine.close()


async def test_an_address_that_libpq_cannot_read_is_refused_without_being_told(
    world: World,
) -> None:
    with pytest.raises(JobEngineUnusable) as refused:
        await ProcrastinateEngine.open(world.database, "postgresql://a:secret@h/d?nonsense=1")
    assert "STEELYARD_JOB_ENGINE=in_process" in str(refused.value)
    assert "secret" not in str(refused.value)
