"""Jobs are begun, run and ended, on both engines."""

import asyncio
from collections.abc import Mapping

import pytest

from steelyard.jobs.model import RunContext, RunRequest
from tests.jobs_kit import ENGINES, OpenEngine, ask, rows, until_state, working
from tests.world import World

every_engine = pytest.mark.parametrize("engine", ENGINES)


@every_engine
async def test_a_job_is_run_once_and_its_run_tells_the_result(
    world: World, engine: OpenEngine
) -> None:
    given: list[RunContext] = []

    async def handle(context: RunContext) -> Mapping[str, object]:
        given.append(context)
        return {"counted": 3}

    made = await ask(world, wanted=RunRequest("a", {"deep": True}))
    async with working(world, handle, engine=engine) as worker:
        await until_state(world, made.run, "completed")
        assert worker.runner.figures.completed == {"count-things": 1}
    assert [(c.run, c.subject, c.arguments, c.attempt) for c in given] == [
        (made.run, "a", {"deep": True}, 1)
    ]
    assert await rows(
        world, "SELECT state, attempts, progress, result::text, error FROM steelyard.run"
    ) == [("completed", 1, 100, '{"counted": 3}', None)]
    assert await rows(world, "SELECT run_id FROM steelyard.job") == []


@every_engine
async def test_many_jobs_on_two_workers_are_each_run_once(world: World, engine: OpenEngine) -> None:
    seen: list[str] = []

    async def handle(context: RunContext) -> Mapping[str, object]:
        seen.append(context.subject)
        await asyncio.sleep(0)
        return {}

    made = [await ask(world, f"s{number}") for number in range(40)]
    async with (
        working(world, handle, engine=engine),
        working(world, handle, engine=engine, name="worker-2"),
    ):
        for one in made:
            await until_state(world, one.run, "completed")
    assert sorted(seen) == sorted(f"s{number}" for number in range(40))
