"""Schedules on a real database: what ticks, what does not, and who may see it."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from steelyard.access.audit import list_audit
from steelyard.core.errors import InvalidInput, NotFound, SteelyardError
from steelyard.core.ids import TenantId
from steelyard.jobs.errors import UnknownKind
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.runtime.ids import RandomIds
from steelyard.schedules.edit_schedules import (
    Wanted,
    change_schedule,
    list_schedules,
    put_schedule,
    remove_schedule,
    run_schedule,
    set_zone,
)
from steelyard.schedules.model import Family, Timing
from steelyard.schedules.run_schedules import families_of
from tests.schedule_kit import ScheduleWorld, admin_of, kinds_of, utc
from tests.world import FreshDatabase

ACME, BOLT = TenantId("acme"), TenantId("bolt")
HOUR = timedelta(hours=1)


@pytest.fixture
async def scene(fresh: FreshDatabase, database: Database) -> ScheduleWorld:
    """One tenant in Lusaka, on the first of June."""
    made = ScheduleWorld(fresh, database)
    made.clock.moment = utc(2026, 6, 1, 12)
    await made.make_tenant(ACME, "Africa/Lusaka")
    return made


async def test_every_tenant_gets_its_schedules_in_its_own_zone(scene: ScheduleWorld) -> None:
    await scene.make_tenant(BOLT)
    assert await scene.scheduler().tick_once() == 0
    for tenant, hours_ahead in ((ACME, 2), (BOLT, 0)):
        async with scene.database.unit_of_work(tenant) as uow:
            told = {one.name: one for one in await list_schedules(uow, now=scene.clock.now())}
        assert {name: one.next_at for name, one in told.items()} == {
            "balance-verify-sync": utc(2026, 6, 2, 2) - HOUR * hours_ahead,
            "balance-rebuild-monthly": utc(2026, 7, 1, 3) - HOUR * hours_ahead,
            "clean-up": utc(2026, 6, 2, 3) - HOUR * hours_ahead,
        }
        assert {one.family for one in told.values()} == {Family.UPKEEP}


async def test_a_tick_begins_one_run_and_moves_on(scene: ScheduleWorld) -> None:
    await scene.put(ACME, "hourly", cron="0 * * * *")
    scheduler = scene.scheduler()
    scene.clock.move(HOUR - timedelta(microseconds=1))
    assert await scheduler.tick_once() == 0
    scene.clock.move(timedelta(microseconds=1))
    assert [await scheduler.tick_once() for _ in range(3)] == [1, 0, 0]
    assert await scene.runs() == [(ACME, "hourly", utc(2026, 6, 1, 13))]
    found = await scene.find(ACME, "hourly")
    assert (found.next_at, found.last_planned_for) == (utc(2026, 6, 1, 14), utc(2026, 6, 1, 13))
    [run] = await scene.ask("SELECT * FROM steelyard.run")
    assert run["id"] == found.last_run
    assert (run["kind"], run["subject"], run["state"]) == ("export", "tenant", "pending")
    assert run["requested_by"] == "schedule:hourly"
    assert len(await scene.ask("SELECT FROM steelyard.job")) == 1


async def test_three_days_without_a_process_are_one_run_of_each_schedule(
    scene: ScheduleWorld,
) -> None:
    await scene.let_each_tick_have_a_run()
    await scene.put(ACME, "hourly", cron="0 * * * *")
    await scene.put(ACME, "often", every_s=60)
    often = (await scene.find(ACME, "often")).next_at
    scene.clock.move(timedelta(days=3))
    # Two of every tenant are due too; the monthly one is not.
    assert [await scene.scheduler().tick_once() for _ in range(2)] == [4, 0]
    assert await scene.runs() == [
        (ACME, "often", often),
        (ACME, "hourly", utc(2026, 6, 1, 13)),
    ]
    assert (await scene.find(ACME, "hourly")).next_at == utc(2026, 6, 4, 13)


async def test_ticks_share_a_run_that_nobody_has_begun(scene: ScheduleWorld) -> None:
    await scene.put(ACME, "hourly", cron="0 * * * *")
    scheduler = scene.scheduler()
    for _ in range(2):
        scene.clock.move(HOUR)
        assert await scheduler.tick_once() == 1
    assert len(await scene.runs()) == 1
    ticks = await scene.ask("SELECT run_id FROM steelyard.schedule_tick")
    assert len(ticks) == 2
    assert len({tick["run_id"] for tick in ticks}) == 1


async def test_a_clock_put_back_repeats_nothing_and_loses_nothing(scene: ScheduleWorld) -> None:
    await scene.let_each_tick_have_a_run()
    await scene.put(ACME, "hourly", cron="0 * * * *")
    scheduler = scene.scheduler()
    scene.clock.move(timedelta(days=400))  # wrong
    await scheduler.tick_once()
    scene.clock.move(HOUR)
    await scheduler.tick_once()
    scene.clock.move(timedelta(days=-400))  # 13:00
    for _ in range(5):
        await scheduler.tick_once()
        scene.clock.move(HOUR)
    told = Counter(await scene.runs())
    expected = [utc(2026, 6, 1, hour) for hour in range(13, 18)]
    early = utc(2026, 6, 1, 13) + timedelta(days=400)
    assert told == Counter((ACME, "hourly", one) for one in (*expected, early))


async def test_a_clock_that_goes_back_and_comes_again_finds_its_ticks_at_once(
    scene: ScheduleWorld,
) -> None:
    await scene.let_each_tick_have_a_run()
    await scene.put(ACME, "often", cron="* * * * *")
    scheduler, minute = scene.scheduler(kinds=kinds_of("export")), timedelta(minutes=1)
    for _ in range(30):
        scene.clock.move(minute)
        assert await scheduler.tick_once() == 1
    scene.clock.move(minute * -20)
    assert await scheduler.tick_once() == 0
    scene.clock.move(minute * 21)
    assert await scheduler.tick_once() == 1
    assert [run[2] for run in await scene.runs()] == [
        utc(2026, 6, 1, 12) + minute * i for i in range(1, 32)
    ]


async def test_a_clock_a_few_seconds_behind_another_leaves_its_ticks_alone(
    scene: ScheduleWorld,
) -> None:
    await scene.put(ACME, "hourly", cron="0 * * * *")
    scheduler = scene.scheduler()
    scene.clock.move(HOUR)
    assert await scheduler.tick_once() == 1
    scene.clock.move(timedelta(seconds=-20))
    assert await scheduler.tick_once() == 0
    assert (await scene.find(ACME, "hourly")).next_at == utc(2026, 6, 1, 14)


async def test_switched_off_it_waits_and_on_again_it_begins_with_the_next_tick(
    scene: ScheduleWorld,
) -> None:
    await scene.put(ACME, "hourly", cron="0 * * * *", is_on=False)
    assert (await scene.find(ACME, "hourly")).next_at is None
    scene.clock.move(HOUR * 5)
    assert await scene.scheduler().tick_once() == 0
    await scene.put(ACME, "hourly", cron="0 * * * *")
    assert await scene.scheduler().tick_once() == 0
    assert (await scene.find(ACME, "hourly")).next_at == utc(2026, 6, 1, 18)


async def test_a_changed_time_counts_from_now(scene: ScheduleWorld) -> None:
    await scene.put(ACME, "report", cron="0 14 * * *")
    scene.clock.move(timedelta(minutes=30))
    changed = await scene.put(ACME, "report", cron="0 18 * * mon-fri", zone="Asia/Kathmandu")
    assert changed.next_at == utc(2026, 6, 2, 12, 15)
    assert changed.timing == Timing(cron="0 18 * * MON-FRI", zone="Asia/Kathmandu")
    assert changed.family is Family.OWN


async def test_sync_schedules_can_be_switched_off_for_all_and_upkeep_stays(
    scene: ScheduleWorld,
) -> None:
    await scene.put(ACME, "pull", cron="0 2 * * *")
    await scene.ask("UPDATE steelyard.schedule SET family = 'sync' WHERE name = 'pull'")
    scene.clock.move(timedelta(days=1))
    assert families_of(syncs=True) == tuple(Family)
    assert await scene.scheduler(families=families_of(syncs=False)).tick_once() == 2
    assert await scene.runs() == []
    assert await scene.scheduler().tick_once() == 1


async def test_a_kind_this_process_does_not_know_is_left_to_one_that_does(
    scene: ScheduleWorld,
) -> None:
    await scene.put(ACME, "hourly", cron="0 * * * *")
    scene.clock.move(HOUR)
    assert await scene.scheduler(kinds=kinds_of("other")).tick_once() == 0
    assert await scene.scheduler().tick_once() == 1


async def test_a_suspended_tenant_does_not_tick_and_catches_up_once(scene: ScheduleWorld) -> None:
    await scene.put(ACME, "hourly", cron="0 * * * *")
    await scene.ask("UPDATE steelyard.tenant SET status = 'suspended'")
    scene.clock.move(HOUR * 3)
    assert await scene.scheduler().tick_once() == 0
    await scene.ask("UPDATE steelyard.tenant SET status = 'active'")
    assert await scene.scheduler().tick_once() == 1
    assert await scene.runs() == [(ACME, "hourly", utc(2026, 6, 1, 13))]


async def test_one_that_cannot_be_begun_holds_up_no_other(scene: ScheduleWorld) -> None:
    for name in ("a-broken", "b-whole"):
        await scene.put(ACME, name, cron="0 * * * *")
    await scene.ask("UPDATE steelyard.schedule SET zone = 'Mars/Olympus' WHERE name = 'a-broken'")
    scheduler = scene.scheduler()
    scene.clock.move(HOUR)
    assert await scheduler.tick_once() == 1
    assert await scene.runs() == [(ACME, "b-whole", utc(2026, 6, 1, 13))]
    assert [await scheduler.tick_once(), scheduler.failures] == [0, 1]  # left alone for a minute
    await scene.ask("UPDATE steelyard.schedule SET zone = NULL WHERE name = 'a-broken'")
    scene.clock.move(timedelta(minutes=1))
    assert await scheduler.tick_once() == 1
    assert len(await scene.ask("SELECT FROM steelyard.schedule_tick")) == 2


async def test_a_thousand_due_at_the_same_moment_run_once_each_with_two_schedulers(
    scene: ScheduleWorld,
) -> None:
    await scene.ask(
        "INSERT INTO steelyard.tenant (id, name, created_at) SELECT 't' || i, 't', now() FROM generate_series(1, 50) i"
    )
    await scene.ask(
        "INSERT INTO steelyard.schedule (tenant_id, name, family, kind, subject, cron, next_at, counted_at, edited_at,"
        " edited_by) SELECT 't' || i, 's' || j, 'own', 'export', 's' || j, '0 13 * * *', $1, $2, $2, 'x'"
        " FROM generate_series(1, 50) i, generate_series(1, 20) j",
        utc(2026, 6, 1, 13),
        scene.clock.now(),
    )
    pool = await Database.open(scene.fresh.app_url, pool_size=4)
    try:
        first, second = scene.scheduler(), scene.scheduler(database=pool)
        await first.tick_once()
        scene.clock.move(HOUR)
        begun = await asyncio.gather(first.tick_once(), second.tick_once())
    finally:
        await pool.close()
    assert sum(begun) == 1000
    assert min(begun) > 0
    runs = await scene.runs()
    assert len(runs) == len(set(runs)) == 1000


async def test_looking_costs_no_more_with_twenty_thousand_schedules_that_are_not_due(
    scene: ScheduleWorld,
) -> None:
    async def look() -> int:
        [row] = await scene.ask(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM steelyard.list_due_schedules("
            "$1, '{export}', '{own}', 200, '-infinity', '', '')",
            scene.clock.now(),
        )
        plan = json.loads(row[0])[0]["Plan"]
        return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])

    few = await look()
    await scene.ask(
        "INSERT INTO steelyard.schedule (tenant_id, name, family, kind, subject, cron, next_at, counted_at, edited_at,"
        " edited_by) SELECT 'acme', 's' || j, 'own', 'export', 's', '0 13 * * *', $1::timestamptz + j * interval '1 s', $1, $1, 'x'"
        " FROM generate_series(1, 20000) j",
        scene.clock.now(),
    )
    assert await look() <= few + 20


# --- editing -----------------------------------------------------------------------------------


REFUSED = [
    ("cron", Wanted("export", Timing(cron="0 25 * * *"))),
    ("cron", Wanted("export", Timing())),
    ("cron", Wanted("export", Timing(cron="0 0 * * *", every_s=60))),
    ("every_s", Wanted("export", Timing(every_s=59))),
    ("zone", Wanted("export", Timing(cron="0 0 * * *", zone="Africa/Atlantis"))),
    ("zone", Wanted("export", Timing(cron="0 0 * * *", zone="../etc/passwd"))),
    ("zone", Wanted("export", Timing(cron="0 0 * * *", zone="localtime"))),
    ("zone", Wanted("export", Timing(cron="0 0 * * *", zone=""))),
    ("hours", Wanted("export", Timing(cron="0 0 * * *", hours="8 to 20"))),
    ("hours", Wanted("export", Timing(cron="0 0 * * *", hours=""))),
    ("hours", Wanted("export", Timing(every_s=60, hours="mon," * 20 + "mon 00:00-01:00"))),
    ("hours", Wanted("export", Timing(cron="0 3 * * *", hours="08:00-20:00"))),
    ("cron", Wanted("export", Timing(cron="0 0 * 2 MON#5"))),
    ("subject", Wanted("export", Timing(every_s=60), subject="")),
    ("subject", Wanted("export", Timing(every_s=60), subject="a\nb")),
    ("arguments", Wanted("export", Timing(every_s=60), arguments={"a": "\0"})),
    ("arguments", Wanted("export", Timing(every_s=60), arguments={"a": "\ud800"})),
    ("arguments", Wanted("export", Timing(every_s=60), arguments={"a": float("inf")})),
    ("arguments", Wanted("export", Timing(every_s=60), arguments={"a": "x" * 20_000})),
]


async def test_what_cannot_be_is_refused_with_the_name_of_the_value(scene: ScheduleWorld) -> None:
    for param, wanted in REFUSED:
        await put_refused(scene, "mine", wanted, param)
    for name in ("", "Upper", "-x", "a b", "a" * 64, "é"):
        await put_refused(scene, name, Wanted("export", Timing(every_s=60)), "name")
    assert await scene.ask("SELECT FROM steelyard.schedule") == []
    assert await scene.ask("SELECT FROM steelyard.audit") == []


async def put_refused(scene: ScheduleWorld, name: str, wanted: Wanted, param: str) -> None:
    """The answer names the value."""
    with pytest.raises(InvalidInput) as refused:
        async with scene.database.unit_of_work(ACME) as uow:
            await put_schedule(uow, name, wanted, scene.edits(ACME))
    assert refused.value.fields() == {"param": param}, wanted


async def test_a_kind_nobody_knows_is_refused(scene: ScheduleWorld) -> None:
    wanted = Wanted("no-such-kind", Timing(every_s=60))
    with pytest.raises(UnknownKind):
        async with scene.database.unit_of_work(ACME) as uow:
            await put_schedule(uow, "mine", wanted, scene.edits(ACME))


async def test_what_every_tenant_has_can_be_moved_but_does_what_it_does(
    scene: ScheduleWorld,
) -> None:
    name = "balance-verify-sync"
    async with scene.database.unit_of_work(ACME) as uow:
        moved = await change_schedule(
            uow,
            name,
            lambda one: replace(one, timing=Timing(cron="30 4 * * *")),
            scene.edits(ACME),
        )
    assert (moved.next_at, moved.family) == (utc(2026, 6, 2, 2, 30), Family.UPKEEP)
    with pytest.raises(InvalidInput) as refused:
        async with scene.database.unit_of_work(ACME) as uow:
            await put_schedule(
                uow,
                name,
                Wanted("export", Timing(every_s=60)),
                scene.edits(ACME),
            )
    assert refused.value.fields() == {"param": "kind"}
    with pytest.raises(InvalidInput):
        async with scene.database.unit_of_work(ACME) as uow:
            await remove_schedule(uow, name, scene.edits(ACME))
    await scene.scheduler().tick_once()  # does not make it anew
    assert (await scene.find(ACME, name)).timing.cron == "30 4 * * *"


async def test_run_now_begins_a_run_and_leaves_the_next_tick(scene: ScheduleWorld) -> None:
    made = await scene.put(ACME, "report", cron="0 14 * * *", is_on=False)
    async with scene.database.unit_of_work(ACME) as uow:
        requested = await run_schedule(uow, "report", scene.edits(ACME), ids=RandomIds())
    assert requested.is_new
    assert requested.token is not None
    [run] = await scene.ask("SELECT id, schedule, planned_for, requested_by FROM steelyard.run")
    assert tuple(run) == (requested.run, "report", None, "ada")
    assert await scene.find(ACME, "report") == made


async def test_each_change_is_in_the_audit_record(scene: ScheduleWorld) -> None:
    now = scene.clock.now()
    await scene.put(ACME, "report", cron="0 14 * * *")
    await scene.put(ACME, "report", cron="0 14 * * *", is_on=False)
    async with scene.database.unit_of_work(ACME) as uow:
        await remove_schedule(uow, "report", scene.edits(ACME))
        await set_zone(uow, "Asia/Kathmandu", by=admin_of(ACME), now=now)
    async with scene.database.unit_of_work(ACME) as uow:
        lines = await list_audit(uow, before=None, limit=10)
    assert [
        (line.action, line.target, line.actor, line.request_id) for line in reversed(lines)
    ] == [
        ("schedule.create", "schedule:report", "ada", "req-1"),
        ("schedule.change", "schedule:report", "ada", "req-1"),
        ("schedule.remove", "schedule:report", "ada", "req-1"),
        ("tenant.zone", "tenant:acme", "ada", None),
    ]
    enabled = [line.details and line.details.get("enabled") for line in lines[2:]]
    assert enabled == [False, True]
    with pytest.raises(NotFound):
        await scene.find(ACME, "report")


async def test_schedules_without_a_zone_follow_their_tenants(scene: ScheduleWorld) -> None:
    await scene.put(ACME, "follows", cron="0 15 * * *")
    await scene.put(ACME, "stays", cron="0 15 * * *", zone="UTC")
    await scene.put(ACME, "is-off", cron="0 15 * * *", is_on=False)
    async with scene.database.unit_of_work(ACME) as uow:
        moved = await set_zone(uow, "Asia/Kathmandu", by=admin_of(ACME), now=scene.clock.now())
    assert moved == 4  # and the three of every tenant
    assert (await scene.find(ACME, "follows")).next_at == utc(2026, 6, 2, 9, 15)
    assert (await scene.find(ACME, "stays")).next_at == utc(2026, 6, 1, 15)
    assert (await scene.find(ACME, "is-off")).next_at is None


async def test_no_tenant_sees_or_moves_the_schedules_of_another(scene: ScheduleWorld) -> None:
    await scene.make_tenant(BOLT)
    await scene.put(ACME, "report", cron="0 14 * * *")
    now, bolt = scene.clock.now(), scene.edits(BOLT)

    async def run(uow: UnitOfWork) -> object:
        return await run_schedule(uow, "report", bolt, ids=RandomIds())

    async def remove(uow: UnitOfWork) -> object:
        await remove_schedule(uow, "report", bolt)
        return None

    async def change(uow: UnitOfWork) -> object:
        return await change_schedule(uow, "report", lambda w: w, bolt)

    for act in (run, remove, change):
        with pytest.raises(NotFound):
            async with scene.database.unit_of_work(BOLT) as uow:
                await act(uow)
    async with scene.database.unit_of_work(BOLT) as uow:
        for table in ("schedule", "schedule_tick"):
            assert await uow.fetch(f"SELECT FROM steelyard.{table} WHERE tenant_id = 'acme'") == []
        names = [one.name for one in await list_schedules(uow, now=now)]
    assert "report" not in names
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with scene.database.unit_of_work(BOLT) as uow:
            await uow.execute(
                "INSERT INTO steelyard.schedule_tick VALUES ('acme', 'report', now(), now(), 1)"
            )
    async with scene.database.unit_of_work(BOLT) as uow:
        assert await uow.fetchval("SELECT steelyard.set_tenant_zone('acme', 'UTC')") is None


async def test_a_tenant_has_at_most_a_thousand(scene: ScheduleWorld) -> None:
    await scene.ask(
        "INSERT INTO steelyard.schedule (tenant_id, name, family, kind, subject, every_s, counted_at, edited_at, edited_by)"
        " SELECT 'acme', 's' || i, 'own', 'export', 'x', 60, now(), now(), 'x' FROM generate_series(1, 997) i"
    )
    with pytest.raises(SteelyardError, match="1000 schedules already"):
        await scene.put(ACME, "one-more", every_s=60)
    await scene.put(ACME, "s1", every_s=61)
