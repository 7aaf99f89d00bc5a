"""PostgreSQL killed and started again while jobs are done: everything resumes by itself, each effect is there once."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.core.errors import DatabaseUnavailable
from steelyard.jobs.model import RunContext
from steelyard.runtime.database import Database
from tests.crash.postgres import PostgresUnderFire
from tests.jobs_kit import ENGINES, QUICK, OpenEngine, ask, rows, working
from tests.world import World

JOBS = 200
PLAN = replace(QUICK, stalled_s=3.0, beat_every_s=0.5, again_s=2.0)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("engine", ENGINES)
async def test_jobs_resume_by_themselves_when_postgresql_is_killed_and_started_again(
    tmp_path: Path, engine: OpenEngine
) -> None:
    server = await PostgresUnderFire.start(tmp_path / "pg")
    fresh = await server.fresh()
    database = await Database.open(fresh.app_url)
    world = await World.open(database, fresh)

    async def handle(context: RunContext) -> Mapping[str, object]:
        async with context.database.unit_of_work(context.tenant) as uow:
            await context.check(uow)
            await uow.execute(
                "INSERT INTO steelyard.audit (tenant_id, at, actor, actor_role, action, outcome) "
                "VALUES ($1, now(), $2, 'service', 'count', 'done')",
                uow.tenant,
                context.subject,
            )
            await asyncio.sleep(0.05)
            await context.complete(uow, {})
        return {}

    try:
        for number in range(JOBS):
            await ask(world, f"s{number}")
        async with (
            working(world, handle, engine=engine, plan=PLAN),
            working(world, handle, engine=engine, plan=PLAN, name="worker-2") as second,
        ):
            for strike in (server.kill_postmaster, server.stop_immediately, server.kill_backend):
                await asyncio.sleep(0.3)
                await strike()
            async with asyncio.timeout(120):
                while second.runner.figures.jobs or await _left(world):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert second._working is not None
            assert not second._working.done()
        done = await rows(world, "SELECT actor, count(*) FROM steelyard.audit GROUP BY actor")
        assert sorted(done) == sorted((f"s{number}", 1) for number in range(JOBS))
        assert await rows(world, "SELECT DISTINCT state FROM steelyard.run") == [("completed",)]
    finally:
        await world.close()
        await database.close()
        await server.stop()


async def _left(world: World) -> bool:
    """Whether there is a job yet, as far as the database answers."""
    try:
        return bool(await rows(world, "SELECT 1 FROM steelyard.job LIMIT 1"))
    except DatabaseUnavailable:
        return True
