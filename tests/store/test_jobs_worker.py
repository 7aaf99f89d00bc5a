"""Jobs are begun, run and ended, on both engines."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from steelyard.core.errors import NotFound, Retry, SteelyardError
from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.jobs.cancel_run import Cancelled, cancel_run, requeue_run
from steelyard.jobs.errors import NotDead
from steelyard.jobs.model import Handler, RunContext, RunRequest
from steelyard.runtime.database import connect
from tests.jobs_kit import (
    ENGINES,
    KIND,
    QUICK,
    OpenEngine,
    ask,
    rows,
    state_of,
    until_state,
    working,
)
from tests.world import World

OTHER = TenantId("other")
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


# --- failures ------------------------------------------------------------------------------------


class Unwell(SteelyardError):
    """May pass."""

    code = "provider_transient"  # of the network category
    retry = Retry.LATER


class Wrong(SteelyardError):
    """Will not pass."""

    code = "invalid_input"


def failing(*errors: BaseException) -> tuple[Handler, list[int]]:
    """A handler that fails so, attempt by attempt, and then succeeds; and the attempts it was called for."""
    left, attempts = list(errors), list[int]()

    async def handle(context: RunContext) -> Mapping[str, object]:
        attempts.append(context.attempt)
        if left:
            raise left.pop(0)
        return {"ok": True}

    return handle, attempts


@every_engine
async def test_a_failure_that_may_pass_is_tried_again_and_the_run_tells_it(
    world: World, engine: OpenEngine
) -> None:
    handle, attempts = failing(Unwell("no answer"), Unwell("no answer"))
    made = await ask(world)
    async with working(world, handle, engine=engine) as worker:
        await until_state(world, made.run, "completed")
        assert worker.runner.figures.retried == {"count-things": 2}
    assert attempts == [1, 2, 3]
    [(told_attempts, result, error, category)] = await rows(
        world, "SELECT attempts, result::text, error::text, error_category FROM steelyard.run"
    )
    assert (told_attempts, result, category) == (3, '{"ok": true}', "network")
    assert json.loads(str(error)) == {
        "code": "provider_transient",
        "message": "no answer",
        "attempt": 2,
    }


async def test_after_the_last_attempt_the_job_is_a_dead_letter_until_it_is_tried_again_by_hand(
    world: World,
) -> None:
    handle, attempts = failing(*[Unwell("no answer")] * 4)
    made = await ask(world)
    async with working(world, handle) as worker:
        await until_state(world, made.run, "failed")
        assert worker.runner.figures.failed == {"count-things": 1}
        assert attempts == [1, 2, 3]
        [(result,)] = await rows(
            world, "SELECT result::text FROM steelyard.run WHERE finished_at IS NOT NULL"
        )
        assert json.loads(str(result)) == {"success": False, "error": "no answer"}
        assert await rows(world, "SELECT state FROM steelyard.job") == [("dead",)]
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            await requeue_run(uow, made.run, now=world.clock.now())
        await until_state(world, made.run, "completed")
    assert attempts == [1, 2, 3, 1, 2]
    assert await rows(world, "SELECT attempts, result::text FROM steelyard.run") == [
        (5, '{"ok": true}')
    ]
    assert await rows(world, "SELECT state FROM steelyard.job") == []


async def test_a_failure_that_will_not_pass_is_not_tried_again(world: World) -> None:
    handle, attempts = failing(Wrong("that is wrong"))
    made = await ask(world)
    async with working(world, handle):
        await until_state(world, made.run, "failed")
    assert attempts == [1]
    assert await rows(world, "SELECT error_category FROM steelyard.run") == [("invalid",)]


async def test_an_error_nobody_foresaw_is_tried_twice_more_and_told_without_its_words(
    world: World,
) -> None:
    handle, attempts = failing(*[ValueError("card 4111")] * 9)
    kind = replace(KIND, attempts_max=9)
    made = await ask(world, kind=kind)
    async with working(world, handle, kind=kind):
        await until_state(world, made.run, "failed")
    assert attempts == [1, 2, 3]
    [(error, result)] = await rows(world, "SELECT error::text, result::text FROM steelyard.run")
    assert json.loads(str(error))["code"] == "unclassified"
    assert "4111" not in f"{error} {result}"


async def test_a_result_that_is_no_json_fails_the_run(world: World) -> None:
    async def handle(context: RunContext) -> Mapping[str, object]:
        return {"when": context.clock}

    made = await ask(world, kind=replace(KIND, attempts_max=1))
    async with working(world, handle):
        await until_state(world, made.run, "failed")


async def test_an_attempt_beyond_its_time_is_ended_and_tried_again(world: World) -> None:
    ended: list[int] = []

    async def handle(context: RunContext) -> Mapping[str, object]:
        try:
            await asyncio.sleep(60 if context.attempt == 1 else 0)
        except asyncio.CancelledError:
            ended.append(context.attempt)
            raise
        return {}

    kind = replace(KIND, timeout_s=0.05)
    made = await ask(world, kind=kind)
    async with working(world, handle, kind=kind):
        await until_state(world, made.run, "completed")
    assert ended == [1]
    [(error,)] = await rows(world, "SELECT error ->> 'code' FROM steelyard.run")
    assert error == "job_timeout"


async def test_a_delayed_job_is_not_begun_before_its_time(world: World) -> None:
    due = world.clock.now() + timedelta(milliseconds=400)
    began: list[datetime] = []

    async def handle(context: RunContext) -> Mapping[str, object]:
        began.append(context.clock.now())
        return {}

    made = await ask(world, wanted=RunRequest("a", not_before=due))
    async with working(world, handle):
        await until_state(world, made.run, "completed")
    assert began[0] >= due


async def test_urgent_jobs_are_begun_first(world: World) -> None:
    began: list[str] = []

    async def handle(context: RunContext) -> Mapping[str, object]:
        began.append(context.subject)
        return {}

    made = [
        await ask(world, wanted=RunRequest(f"p{priority}", priority=priority))
        for priority in (0, 50, 30, 100)
    ]
    async with working(world, handle, plan=replace(QUICK, slots=1)):
        for one in made:
            await until_state(world, one.run, "completed")
    assert began == ["p100", "p50", "p30", "p0"]


# --- cancelling ----------------------------------------------------------------------------------


async def cancel(world: World, run: int, tenant: TenantId = DEFAULT_TENANT) -> Cancelled:
    async with world.database.unit_of_work(tenant) as uow:
        return await cancel_run(uow, run, now=world.clock.now())


async def test_a_job_that_has_not_begun_is_cancelled_at_once(world: World) -> None:
    made = await ask(world)
    assert await cancel(world, made.run) is Cancelled.CANCELLED
    assert await cancel(world, made.run) is Cancelled.ENDED
    handle, attempts = failing()
    async with working(world, handle) as worker:
        assert await worker.hand_over_once() == 0
    assert attempts == []
    [(state, error)] = await rows(world, "SELECT state, error::text FROM steelyard.run")
    assert state == "cancelled"
    assert json.loads(str(error)) == {
        "code": "job_cancelled",
        "message": "it was cancelled before it ended",
    }


async def test_a_job_that_runs_is_cancelled_with_the_next_sign_of_life(world: World) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def handle(context: RunContext) -> Mapping[str, object]:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return {}

    made = await ask(world)
    async with working(world, handle) as worker:
        await began.wait()
        assert await cancel(world, made.run) is Cancelled.ASKED
        await until_state(world, made.run, "cancelled")
        assert worker.runner.figures.cancelled == {"count-things": 1}
    assert ended.is_set()
    assert await rows(world, "SELECT run_id FROM steelyard.job") == []


async def test_a_job_whose_end_was_asked_for_may_write_no_more(world: World) -> None:
    began, may_go_on = asyncio.Event(), asyncio.Event()

    async def handle(context: RunContext) -> Mapping[str, object]:
        began.set()
        await may_go_on.wait()
        async with context.database.unit_of_work(context.tenant) as uow:
            await context.check(uow)
            raise AssertionError("it was let through")

    made = await ask(world)
    async with working(world, handle, plan=replace(QUICK, beat_every_s=60)):
        await began.wait()
        await cancel(world, made.run)
        may_go_on.set()
        await until_state(world, made.run, "cancelled", "failed", "retrying")
    assert await state_of(world, made.run) == "cancelled"


# --- tenants -------------------------------------------------------------------------------------


async def test_another_tenants_job_can_neither_be_seen_nor_touched(world: World) -> None:
    await world.make_tenant(OTHER)
    made = await ask(world, kind=replace(KIND, attempts_max=1))
    assert await rows(world, "SELECT 1 FROM steelyard.job", tenant=OTHER) == []
    assert await rows(world, "SELECT 1 FROM steelyard.run", tenant=OTHER) == []
    with pytest.raises(NotFound):
        await cancel(world, made.run, OTHER)
    handle, _ = failing(Wrong("that is wrong"))
    async with working(world, handle):
        await until_state(world, made.run, "failed")
    for tenant, refusal in ((OTHER, NotFound), (DEFAULT_TENANT, None)):
        async with world.database.unit_of_work(tenant) as uow:
            if refusal is None:
                await requeue_run(uow, made.run, now=world.clock.now())
            else:
                with pytest.raises(refusal):
                    await requeue_run(uow, made.run, now=world.clock.now())


async def test_what_is_no_dead_letter_cannot_be_tried_again(world: World) -> None:
    made = await ask(world)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        with pytest.raises(NotDead):
            await requeue_run(uow, made.run, now=world.clock.now())


async def test_jobs_of_a_tenant_that_is_not_served_wait(world: World) -> None:
    await world.make_tenant(OTHER)
    waiting, other = await ask(world, tenant=OTHER), await ask(world)
    admin = await connect(world.fresh.admin_url)
    await admin.execute("UPDATE steelyard.tenant SET status = 'suspended' WHERE id = 'other'")
    await admin.close()
    async with working(world):
        await until_state(world, other.run, "completed")
        assert await state_of(world, waiting.run, tenant=OTHER) == "pending"
