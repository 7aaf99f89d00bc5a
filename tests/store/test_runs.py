"""Runs as they are seen: by their token, in pages, as figures; and no more when they are old."""

from datetime import timedelta

import pytest

from steelyard.access.model import Principal, Role
from steelyard.access.pages import Place, write_cursor
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import DEFAULT_TENANT, TenantId, UserId
from steelyard.jobs.list_runs import DEAD, RUNS, RunPage, list_dead_letters, list_runs
from steelyard.jobs.model import Kind, RunRequest, State
from steelyard.jobs.request_run import hash_token, request_run
from steelyard.jobs.retention import AT_ONCE, Retention
from steelyard.jobs.seen_run import KindFigures, RunFilter
from steelyard.jobs.show_run import read_as, read_by_token
from steelyard.jobs.statistics import load_figures
from steelyard.runtime.ids import RandomIds
from tests.jobs_kit import ask, rows, until_state, working
from tests.runs_kit import write_run
from tests.world import World

OTHER = TenantId("other")
MINUTE = timedelta(minutes=1)


async def page(
    world: World,
    wanted: RunFilter | None = None,
    *,
    cursor: str | None = None,
    limit: int = 50,
    tenant: TenantId = DEFAULT_TENANT,
) -> RunPage:
    async with world.database.unit_of_work(tenant) as uow:
        return await list_runs(uow, wanted or RunFilter(), cursor=cursor, limit=limit)


async def ids(
    world: World, wanted: RunFilter | None = None, tenant: TenantId = DEFAULT_TENANT
) -> list[int]:
    return [run.id for run in (await page(world, wanted, tenant=tenant)).runs]


# --- one run -----------------------------------------------------------------------------------


async def test_a_token_reads_its_run_and_nothing_else(world: World) -> None:
    now = world.clock.now()
    await world.make_tenant(OTHER)
    mine = await write_run(world.database, at=now, token="mine")
    theirs = await write_run(world.database, at=now, token="theirs", tenant=OTHER)
    assert (await read_by_token(world.database, str(mine), "mine")).state is State.COMPLETED
    assert (await read_by_token(world.database, str(theirs), "theirs")).id == theirs
    for run, token in (
        (str(mine), "theirs"),
        (str(theirs), "mine"),
        (str(mine), ""),
        ("999999", "mine"),
        (f"0{mine}", "mine"),
        ("1e3", "mine"),
        ("9" * 30, "mine"),
    ):
        with pytest.raises(NotFound) as refused:
            await read_by_token(world.database, run, token)
        assert str(refused.value) == f"there is no run {run!r} here"


async def test_a_token_is_stored_as_its_hash_alone(world: World) -> None:
    made = await ask(world, wanted=RunRequest("a", wants_token=True))
    assert made.token is not None
    assert len(made.token) == 32
    [(row,)] = await rows(world, "SELECT r::text FROM steelyard.run r")
    assert made.token not in str(row)
    assert await rows(world, "SELECT token_hashes FROM steelyard.run") == [
        ([hash_token(made.token)],)
    ]


async def test_the_token_of_a_suspended_tenant_reads_nothing(world: World) -> None:
    run = await write_run(world.database, at=world.clock.now(), token="t")
    admin = await world.as_superuser()
    await admin.execute("UPDATE steelyard.tenant SET status = 'suspended'")
    await admin.close()
    with pytest.raises(NotFound):
        await read_by_token(world.database, str(run), "t")


async def test_who_signed_in_reads_what_its_role_may(world: World) -> None:
    now = world.clock.now()
    await world.make_tenant(OTHER)
    sync = await write_run(world.database, at=now, subject="ann")
    job = await write_run(world.database, at=now, subject="ann", kind="clean-up")

    async def may(role: Role, user: str | None, run: int, tenant: TenantId) -> bool:
        principal = Principal(tenant, user or "key:1", role, None if user is None else UserId(user))
        async with world.database.unit_of_work(tenant) as uow:
            try:
                return (await read_as(uow, principal, str(run))).id == run
            except NotFound:
                return False

    for role in (Role.OPERATOR, Role.ADMIN, Role.SERVICE):
        assert await may(role, "boss", sync, DEFAULT_TENANT)
        assert await may(role, "boss", job, DEFAULT_TENANT)
        assert not await may(role, "boss", sync, OTHER)
    assert await may(Role.USER, "ann", sync, DEFAULT_TENANT)
    assert not await may(Role.USER, "ann", job, DEFAULT_TENANT)  # its subject is no user
    assert not await may(Role.USER, "bob", sync, DEFAULT_TENANT)
    assert not await may(Role.USER, "ann", sync, OTHER)


# --- pages -------------------------------------------------------------------------------------


async def test_pages_show_each_run_once_though_others_are_asked_for_meanwhile(
    world: World,
) -> None:
    now = world.clock.now()
    kinds = ("update-balances", "clean-up", "count-things")
    made = [
        await write_run(
            world.database,
            at=now + MINUTE * (number // 2),  # two at each moment
            kind=kinds[number % 3],
            state=State.FAILED if number % 4 == 0 else State.COMPLETED,
        )
        for number in range(11)
    ]
    seen: list[int] = []
    cursor = None
    while True:
        found = await page(world, cursor=cursor, limit=3)
        seen += [run.id for run in found.runs]
        await write_run(world.database, at=now + timedelta(days=1))
        if (cursor := found.next_cursor) is None:
            break
    assert seen == [
        *made[10:],
        *(run for pair in range(4, -1, -1) for run in sorted(made[2 * pair : 2 * pair + 2])[::-1]),
    ]


async def test_each_filter_finds_its_own(world: World) -> None:
    now, database = world.clock.now(), world.database
    one = await write_run(database, at=now, subject="ann")
    two = await write_run(
        database, at=now + MINUTE, subject="bob", state=State.FAILED, error="timeout"
    )
    three = await write_run(
        database, at=now + 2 * MINUTE, subject="ann", kind="clean-up", state=State.RUNNING
    )
    four = await write_run(
        database, at=now + 3 * MINUTE, subject="ann", state=State.EXPIRED, error="worker_lost"
    )
    cases = {
        RunFilter(): [four, three, two, one],
        RunFilter(kinds=("clean-up",)): [three],
        RunFilter(kinds=("nothing",)): [],
        RunFilter(states=(State.FAILED, State.EXPIRED)): [four, two],
        RunFilter(subject="ann"): [four, three, one],
        RunFilter(subject="ann", kinds=("update-balances",)): [four, one],
        RunFilter(subject="ann", states=(State.RUNNING,)): [three],
        RunFilter(subject="ann", error_code="worker_lost"): [four],
        RunFilter(error_code="timeout"): [two],
        RunFilter(error_code="timeout", states=(State.EXPIRED,)): [],
        RunFilter(error_code="timeout", kinds=("clean-up",)): [],
        RunFilter(since=now + MINUTE): [four, three, two],
        RunFilter(until=now + MINUTE): [one],
        RunFilter(since=now + MINUTE, until=now + 3 * MINUTE): [three, two],
        RunFilter(subject="ann", since=now + MINUTE, until=now + 3 * MINUTE): [three],
        RunFilter(error_code="timeout", until=now): [],
    }
    for wanted, expected in cases.items():
        assert await ids(world, wanted) == expected, wanted


async def test_no_list_count_or_figure_shows_another_tenants_run(world: World) -> None:
    now = world.clock.now()
    await world.make_tenant(OTHER)
    await write_run(world.database, at=now, state=State.FAILED, error="timeout", tenant=OTHER)
    for wanted in (
        RunFilter(),
        RunFilter(kinds=("update-balances",)),
        RunFilter(subject="ann"),
        RunFilter(error_code="timeout"),
        RunFilter(states=(State.FAILED,)),
    ):
        assert await ids(world, wanted) == []
        assert len(await ids(world, wanted, OTHER)) == 1
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert await load_figures(uow, ("clean-up",), now=now) == [KindFigures("clean-up")]
        assert (await list_dead_letters(uow, None, cursor=None, limit=5)).runs == []


@pytest.mark.parametrize(
    "key",
    ["00000000000000000001" + "9" * 30, "00000000000000000001" + "9" * 600, "9223372036854775808", "0", "-1", "٣"],
)  # fmt: skip
async def test_a_cursor_with_a_number_that_no_run_has_is_refused(world: World, key: str) -> None:
    with pytest.raises(InvalidInput):
        await page(world, cursor=write_cursor(Place(RUNS, f"2026-01-01T00:00:00+00:00 {key}")))
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        with pytest.raises(InvalidInput):
            await list_dead_letters(uow, None, cursor=write_cursor(Place(DEAD, key)), limit=1)


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00"]
)
async def test_a_cursor_with_a_moment_that_never_is_is_refused(world: World, moment: str) -> None:
    with pytest.raises(InvalidInput):
        await page(world, cursor=write_cursor(Place(RUNS, f"{moment} 5")))


@pytest.mark.parametrize("cursor", ["x", "WyJydW5zIiwiMSJd", "WyJ1c2VycyIsImEiXQ", "", "é"])
async def test_a_cursor_of_another_list_is_refused(world: World, cursor: str) -> None:
    with pytest.raises(InvalidInput):
        await page(world, cursor=cursor)


async def test_dead_letters_are_listed_until_they_are_tried_again(world: World) -> None:
    async def fail(context: object) -> dict[str, object]:
        raise InvalidInput(field="x", problem="it never works")

    made = [await ask(world, f"s{number}") for number in range(3)]
    async with working(world, fail):
        for one in made:
            await until_state(world, one.run, "failed")
    await write_run(world.database, at=world.clock.now(), state=State.FAILED)  # a sync is none
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        first = await list_dead_letters(uow, None, cursor=None, limit=2)
        rest = await list_dead_letters(uow, "count-things", cursor=first.next_cursor, limit=2)
        assert (await list_dead_letters(uow, "clean-up", cursor=None, limit=2)).runs == []
    assert [run.id for run in (*first.runs, *rest.runs)] == [
        one.run for one in sorted(made, key=lambda one: -one.run)
    ]
    assert rest.next_cursor is None
    async with working(world):
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            from steelyard.jobs.cancel_run import requeue_run

            await requeue_run(uow, made[0].run, now=world.clock.now())
        await until_state(world, made[0].run, "completed")
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        left = await list_dead_letters(uow, None, cursor=None, limit=9)
    assert {run.id for run in left.runs} == {one.run for one in made[1:]}


# --- figures -----------------------------------------------------------------------------------


async def test_figures_tell_what_waits_runs_and_ended_in_the_last_day(world: World) -> None:
    now, database = world.clock.now(), world.database
    for seconds in range(1, 21):
        await write_run(database, at=now - MINUTE, took=timedelta(seconds=seconds))
    await write_run(database, at=now - timedelta(days=2), took=timedelta(hours=5))
    for state in (State.PENDING, State.RUNNING, State.RUNNING, State.RETRYING):
        await write_run(database, at=now, state=state)
    for state in (State.FAILED, State.EXPIRED, State.CANCELLED):
        await write_run(database, at=now, state=state)
    await ask(world, "now")
    await ask(world, "later", wanted=RunRequest("later", not_before=now + timedelta(hours=1)))
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        found = await load_figures(uow, ("clean-up",), now=world.clock.now())
    assert found == [
        KindFigures("clean-up"),
        KindFigures("count-things", waiting=1, delayed=1),
        KindFigures("update-balances", 1, 2, 1, 20, 2, p50_s=10.5, p95_s=19.05),
    ]


# --- clean-up ----------------------------------------------------------------------------------


async def test_old_runs_are_removed_and_young_or_open_ones_are_kept(world: World) -> None:
    now, database = world.clock.now(), world.database
    await world.make_tenant(OTHER)
    long_ago = now - timedelta(days=91)
    for state in (State.COMPLETED, State.FAILED, State.CANCELLED):
        await write_run(database, at=long_ago, state=state)
    theirs = await write_run(database, at=long_ago, tenant=OTHER)
    kept = [
        await write_run(database, at=long_ago, took=timedelta(days=2)),  # ended 89 days ago
        await write_run(database, at=long_ago, state=State.PENDING),
        await write_run(database, at=now - timedelta(days=89)),
    ]
    retention = Retention(database, world.clock, timedelta(days=90))
    assert await retention.count_old(DEFAULT_TENANT) == {"update-balances": 3}
    assert len(await ids(world)) == 6
    assert await retention.clean_up(DEFAULT_TENANT) == {"update-balances": 3}
    assert sorted(await ids(world)) == sorted(kept)
    assert await ids(world, tenant=OTHER) == [theirs]
    assert await retention.clean_up(DEFAULT_TENANT) == {}


async def test_a_dead_letter_goes_with_its_run(world: World) -> None:
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        before = world.clock.now() - timedelta(days=100)
        made = await request_run(uow, Kind("old"), RunRequest("a"), now=before, ids=RandomIds())
        await uow.execute("UPDATE steelyard.job SET state = 'dead'")
        await uow.execute(
            "UPDATE steelyard.run SET state = 'failed', finished_at = created_at WHERE id = $1",
            made.run,
        )
    retention = Retention(world.database, world.clock, timedelta(days=90))
    assert await retention.clean_up(DEFAULT_TENANT) == {"old": 1}
    assert await rows(world, "SELECT run_id FROM steelyard.job") == []


async def test_more_than_one_batch_is_removed_and_locked_rows_are_passed_by(world: World) -> None:
    admin = await world.as_superuser()
    await admin.execute(
        "INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, created_at, finished_at)"
        " SELECT 'default', g, 'k', 's', 0, 'completed', now() - interval '100 d', now() - interval '99 d'"
        " FROM generate_series(1, $1) g",
        2 * AT_ONCE + 7,
    )
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        await uow.execute("SELECT 1 FROM steelyard.run WHERE id = 5 FOR UPDATE")
        retention = Retention(world.database, world.clock, timedelta(days=90))
        assert await retention.clean_up(DEFAULT_TENANT) == {"k": 2 * AT_ONCE + 6}
    await admin.close()
    assert await ids(world) == [5]
