"""Asking for a job: the run and its job are there together, equal requests share a run."""

import asyncio
from datetime import timedelta

import pytest

from steelyard.core.errors import InvalidInput
from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.jobs.model import Kind, RequestedRun, RunRequest
from steelyard.jobs.request_run import hash_token, request_run
from steelyard.runtime.ids import RandomIds
from tests.world import World

COUNT = Kind("count-things", priority=7, attempts_max=4)
OTHER = TenantId("other")


async def ask(world: World, wanted: RunRequest, tenant: TenantId = DEFAULT_TENANT) -> RequestedRun:
    async with world.database.unit_of_work(tenant) as uow:
        return await request_run(uow, COUNT, wanted, now=world.clock.now(), ids=RandomIds())


async def rows(
    world: World, sql: str, tenant: TenantId = DEFAULT_TENANT
) -> list[tuple[object, ...]]:
    async with world.database.unit_of_work(tenant) as uow:
        return [tuple(row) for row in await uow.fetch(sql)]


async def test_a_request_makes_one_run_and_one_job_and_tells_its_token_once(world: World) -> None:
    tick = world.clock.now() - timedelta(minutes=1)
    wanted = RunRequest("a", {"b": [1]}, tick, "nightly", wants_token=True, requested_by="user:7")
    made = await ask(world, wanted)
    assert made.is_new
    assert made.token is not None
    assert len(made.token) == 32
    runs = await rows(
        world,
        "SELECT id, kind, subject, priority, state, token_hashes, arguments::text, requested_by, schedule, planned_for "
        "FROM steelyard.run",
    )
    assert runs == [
        (
            made.run,
            "count-things",
            "a",
            7,
            "pending",
            [hash_token(made.token)],
            '{"b": [1]}',
            "user:7",
            "nightly",
            tick,
        )
    ]
    jobs = await rows(
        world, "SELECT run_id, state, priority, attempts_max, token FROM steelyard.job"
    )
    assert jobs == [(made.run, "pending", 7, 4, 0)]


async def test_a_unit_of_work_that_is_rolled_back_leaves_no_run_and_no_job(world: World) -> None:
    async def change_my_mind() -> None:
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            await request_run(uow, COUNT, RunRequest("a"), now=world.clock.now())
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_my_mind()
    assert await rows(world, "SELECT id FROM steelyard.run") == []
    assert await rows(world, "SELECT run_id FROM steelyard.job") == []


async def test_equal_requests_share_a_run_that_nobody_has_begun(world: World) -> None:
    first = await ask(world, RunRequest("a", {"b": 1, "c": 2}, wants_token=True))
    second = await ask(world, RunRequest("a", {"c": 2, "b": 1}, wants_token=True, priority=90))
    assert (second.run, second.is_new) == (first.run, False)
    assert first.token is not None
    assert second.token not in (None, first.token)
    assert await rows(world, "SELECT priority, token_hashes FROM steelyard.run") == [
        (90, [hash_token(str(second.token)), hash_token(first.token)])
    ]
    assert await rows(world, "SELECT priority FROM steelyard.job") == [(90,)]


@pytest.mark.parametrize("wanted", [RunRequest("b"), RunRequest("a", {"fix": True})])
async def test_requests_that_differ_in_subject_or_arguments_have_runs_of_their_own(
    world: World, wanted: RunRequest
) -> None:
    first = await ask(world, RunRequest("a"))
    second = await ask(world, wanted)
    assert second.is_new
    assert second.run != first.run


async def test_requests_of_tenants_are_apart(world: World) -> None:
    await world.make_tenant(OTHER)
    first = await ask(world, RunRequest("a"))
    second = await ask(world, RunRequest("a"), OTHER)
    assert second.is_new
    assert await rows(world, "SELECT run_id FROM steelyard.job", OTHER) == [(second.run,)]
    assert await rows(world, "SELECT id FROM steelyard.run") == [(first.run,)]


async def test_a_delayed_job_is_due_at_the_earlier_of_two_moments(world: World) -> None:
    now = world.clock.now()
    late, soon = now + timedelta(hours=2), now + timedelta(hours=1)
    await ask(world, RunRequest("a", not_before=late))
    await ask(world, RunRequest("a", not_before=soon))
    assert await rows(world, "SELECT due_at, look_at FROM steelyard.job") == [(soon, soon)]


async def test_many_equal_requests_at_once_make_one_run(world: World) -> None:
    made = await asyncio.gather(*(ask(world, RunRequest("a", wants_token=True)) for _ in range(12)))
    assert len({one.run for one in made}) == 1
    assert sum(one.is_new for one in made) == 1
    [(hashes,)] = await rows(world, "SELECT token_hashes FROM steelyard.run")
    assert sorted(hashes) == sorted(hash_token(str(one.token)) for one in made)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "wanted",
    [
        RunRequest(""),
        RunRequest("a" * 129),
        RunRequest("a\nb"),
        RunRequest("a", {"b": object()}),
        RunRequest("a", {"b": float("nan")}),
        RunRequest("a", {"b": "\0"}),
        RunRequest("a", {"b": "x" * 65_536}),
    ],
)
async def test_a_bad_request_is_refused_and_nothing_is_written(
    world: World, wanted: RunRequest
) -> None:
    with pytest.raises(InvalidInput):
        await ask(world, wanted)
    assert await rows(world, "SELECT id FROM steelyard.run") == []
