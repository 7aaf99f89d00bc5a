"""Proof, rebuild and clean-up as jobs: what they repair, tell and record; and that a lost job repairs nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.jobs.in_process_engine import InProcessEngine
from steelyard.jobs.model import HandledKind, RequestedRun, RunContext, RunRequest, State
from steelyard.jobs.retention import CLEAN_UP, Retention, clean_up_kind
from steelyard.jobs.show_run import get_run
from steelyard.reconcile.run_kinds import (
    REBUILD,
    VERIFY_AND_FIX,
    ReconcileParts,
    reconcile_kinds,
)
from tests.jobs_kit import ask, rows, until_state, working
from tests.runs_kit import write_run
from tests.store.reconcile_kit import tampering
from tests.world import World

WHOLE = RunRequest("tenant")
AUDIT = "SELECT action, outcome, details::text FROM steelyard.audit WHERE action LIKE $1"


def handled(world: World, name: str) -> HandledKind:
    """The kind as a process has it."""
    retention = Retention(world.database, world.clock, timedelta(days=90))
    kinds = [
        *reconcile_kinds(ReconcileParts(world.bus, world.cache)),
        clean_up_kind(retention, InProcessEngine()),
    ]
    return next(one for one in kinds if one.kind.name == name)


@asynccontextmanager
async def done(
    world: World, kind: HandledKind, wanted: RunRequest = WHOLE
) -> AsyncIterator[RequestedRun]:
    """Run one job to its end."""
    made = await ask(world, kind=kind.kind, wanted=wanted)
    async with working(world, kind.handler, kind=kind.kind):
        await until_state(world, made.run, "completed", "failed")
    yield made


async def result_of(world: World, made: RequestedRun) -> dict[str, object]:
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        found = await get_run(uow, str(made.run))
    assert found.state is State.COMPLETED, found
    assert found.progress == 100
    return dict(json.loads(found.result or "{}"))


async def test_the_nightly_run_repairs_tells_it_and_is_on_record(world: World) -> None:
    account = await world.open_account(1_000)
    await world.open_account(500)
    async with tampering(world) as connection:
        await connection.execute("UPDATE account SET posted = posted + 7 WHERE id = $1", account)
    async with done(world, handled(world, VERIFY_AND_FIX.name)) as made:
        told = await result_of(world, made)
    assert (await world.balance(account)).posted == 1_000
    assert {name: told[name] for name in ("success", "clean", "checked", "synced", "fixed")} == {
        "success": True,
        "clean": True,
        "checked": 2,
        "synced": 1,
        "fixed": 1,
    }
    assert (told["touched"], told["remaining"], told["errors"]) == (1, 0, [])
    [(action, outcome, details)] = await rows(world, AUDIT, "balances.%")
    assert (action, outcome) == ("balances.verify_and_fix", "done")
    assert '"fixed": 1' in str(details)
    # The repair itself is on record too, and says which run it was of.
    assert await rows(
        world, "SELECT DISTINCT actor FROM steelyard.audit WHERE request_id = $1", f"run:{made.run}"
    ) == [("system:jobs",)]
    again = handled(world, VERIFY_AND_FIX.name)
    async with done(world, again) as second:
        told = await result_of(world, second)
    assert (told["fixed"], told["touched"], told["clean"]) == (0, 0, True)


async def test_what_cannot_be_repaired_completes_the_run_and_is_said(world: World) -> None:
    account = await world.open_account(1_000)
    for _ in range(3):
        await world.ledger().charge(account, 10)
    async with tampering(world) as connection:
        await connection.execute("DELETE FROM change WHERE account_id = $1 AND seq = 2", account)
    async with done(world, handled(world, VERIFY_AND_FIX.name)) as made:
        told = await result_of(world, made)
    assert (told["success"], told["clean"], told["checked"], told["fixed"]) == (True, False, 1, 0)
    errors = told["errors"]
    assert isinstance(errors, list)
    assert told["remaining"] == len(errors) > 0
    assert {error["account"] for error in errors} == {str(account)}
    [(_, outcome, _)] = await rows(world, AUDIT, "balances.%")
    assert outcome == "discrepancies_remain"


async def test_one_user_may_be_proved_alone(world: World) -> None:
    await world.open_account(1_000, user="ann")
    await world.open_account(1_000, user="bob")
    wanted = RunRequest("ann", {"user_id": "ann"})
    async with done(world, handled(world, VERIFY_AND_FIX.name), wanted) as made:
        assert (await result_of(world, made))["checked"] == 1


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (VERIFY_AND_FIX.name, {"userId": "ann"}),
        (VERIFY_AND_FIX.name, {"user_id": 7}),
        (REBUILD.name, {"user_id": "ann"}),
    ],
)
async def test_an_argument_nobody_reads_fails_the_run_and_repairs_nothing(
    world: World, kind: str, arguments: dict[str, object]
) -> None:
    account = await world.open_account(1_000, user="bob")
    async with tampering(world) as connection:
        await connection.execute("UPDATE account SET posted = 3 WHERE id = $1", account)
    async with (
        done(world, handled(world, kind), RunRequest("ann", arguments)) as made,
        world.database.unit_of_work(DEFAULT_TENANT) as uow,
    ):
        found = await get_run(uow, str(made.run))
    assert (found.state, found.attempts) == (State.FAILED, 1)
    assert json.loads(found.error or "{}")["code"] == "invalid_input"
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        posted = await uow.fetchval("SELECT posted FROM steelyard.account WHERE id = $1", account)
    assert posted == 3


async def test_the_monthly_run_computes_every_account_anew(world: World) -> None:
    account = await world.open_account(1_000)
    async with tampering(world) as connection:
        await connection.execute("UPDATE account SET posted = 3 WHERE id = $1", account)
    async with done(world, handled(world, REBUILD.name)) as made:
        told = await result_of(world, made)
    assert (await world.balance(account)).posted == 1_000
    assert (told["fixed"], told["clean"]) == (1, True)
    [(action, _, _)] = await rows(world, AUDIT, "balances.%")
    assert action == "balances.rebuild"


async def test_a_job_that_another_worker_has_by_now_repairs_nothing(world: World) -> None:
    account = await world.open_account(1_000)
    async with tampering(world) as connection:
        await connection.execute("UPDATE account SET posted = 3 WHERE id = $1", account)
    kind = handled(world, VERIFY_AND_FIX.name)
    ended = asyncio.Event()

    async def lose_then_run(context: RunContext) -> dict[str, object]:
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            await uow.execute("UPDATE steelyard.job SET token = token + 1")
        try:
            return dict(await kind.handler(context))
        finally:
            ended.set()

    made = await ask(world, kind=kind.kind, wanted=WHOLE)
    async with working(world, lose_then_run, kind=kind.kind) as worker:
        async with asyncio.timeout(20):
            await ended.wait()
    assert worker.runner.figures.lost == 1
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert (
            await uow.fetchval("SELECT posted FROM steelyard.account WHERE id = $1", account) == 3
        )
        assert (await get_run(uow, str(made.run))).result is None
    assert await rows(world, AUDIT, "balances.%") == []


async def test_clean_up_deletes_its_tenants_old_runs_and_says_so(world: World) -> None:
    await world.make_tenant(TenantId("other"))
    long_ago = world.clock.now() - timedelta(days=100)
    await write_run(world.database, at=long_ago)
    theirs = await write_run(world.database, at=long_ago, tenant=TenantId("other"))
    async with done(world, handled(world, CLEAN_UP.name)) as made:
        assert await result_of(world, made) == {
            "success": True,
            "runs_deleted": 1,
            "by_kind": {"update-balances": 1},
        }
    assert await rows(world, "SELECT id FROM steelyard.run") == [(made.run,)]
    other = await rows(world, "SELECT id FROM steelyard.run", tenant=TenantId("other"))
    assert other == [(theirs,)]
    [(action, outcome, _)] = await rows(world, AUDIT, "runs.%")
    assert (action, outcome) == ("runs.clean_up", "done")
