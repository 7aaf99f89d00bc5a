"""Years of schedules on a real database, with two schedulers and clocks that are put forward and back: each tick once.

What is expected is found by looking at the wall every few minutes, not with the rules themselves.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from steelyard.core.ids import TenantId
from steelyard.runtime.database import Database
from steelyard.schedules.run_schedules import Scheduler
from steelyard.testing.clock import FrozenClock
from tests.schedule_kit import ZONES, Pattern, ScheduleWorld, kinds_of, ticks_of, utc
from tests.world import FreshDatabase

SUNDAYS_AT_HALF_PAST_ONE_AND_TWO = Pattern(
    frozenset({30}), frozenset({1, 2}), weekdays=frozenset({0})
)
MONTHLY_AT_THREE = Pattern(frozenset({0}), frozenset({3}), days=frozenset({1}))
SUNDAYS_AT_MIDNIGHT = Pattern(frozenset({0}), frozenset({0}), weekdays=frozenset({0}))
DAILY_AT_HALF_PAST_TWO = Pattern(frozenset({30}), frozenset({2}))
AUTUMN_AND_SPRING_EVERY_HALF_HOUR = Pattern(
    frozenset({0, 30}), days=frozenset({4, 5, 29}), months=frozenset({3, 4, 10})
)
FEW = (SUNDAYS_AT_HALF_PAST_ONE_AND_TWO, MONTHLY_AT_THREE)
MANY = (*FEW, SUNDAYS_AT_MIDNIGHT, DAILY_AT_HALF_PAST_TWO, AUTUMN_AND_SPRING_EVERY_HALF_HOUR)
Tick = tuple[str, str, datetime]


@pytest.fixture
async def scene(fresh: FreshDatabase, database: Database) -> ScheduleWorld:
    """A tenant in each zone; every tick has a run of its own."""
    made = ScheduleWorld(fresh, database)
    made.clock.moment = utc(2026, 1, 1)
    await made.let_each_tick_have_a_run()
    for zone in ZONES:
        await made.make_tenant(tenant_in(zone), zone)
    return made


@pytest.fixture
async def other_pool(fresh: FreshDatabase) -> AsyncIterator[Database]:
    """What another process would log in with."""
    pool = await Database.open(fresh.app_url, pool_size=4)
    yield pool
    await pool.close()


def tenant_in(zone: str) -> TenantId:
    """The tenant of a zone."""
    return TenantId(zone.lower().replace("/", "-").replace("_", "-"))


async def test_in_a_year_each_tick_is_once_whatever_the_clocks_say(
    scene: ScheduleWorld, other_pool: Database
) -> None:
    zones = ("Europe/London", "Australia/Lord_Howe", "Africa/Lusaka", "America/Santiago")
    await live_through(scene, other_pool, zones, FEW, utc(2026, 10, 1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_in_ten_years_each_tick_is_once_whatever_the_clocks_say(
    scene: ScheduleWorld, other_pool: Database
) -> None:
    await live_through(scene, other_pool, ZONES, MANY, utc(2036, 1, 1))


async def live_through(
    scene: ScheduleWorld,
    other_pool: Database,
    zones: tuple[str, ...],
    patterns: tuple[Pattern, ...],
    end: datetime,
) -> None:
    """Go from tick to tick with two processes; now and then the clock of one of them, or of both, is wrong."""
    start = scene.clock.now()
    expected = await put_all(scene, zones, patterns, start, end)
    clocks = [FrozenClock(start), FrozenClock(start)]
    pools = (scene.database, other_pool)
    both = [
        scene.scheduler(clock=c, database=p, kinds=kinds_of("export"))
        for c, p in zip(clocks, pools, strict=True)
    ]
    chance = random.Random(20261121)
    for moment in sorted({tick for _, _, tick in expected}):
        for clock in clocks:
            clock.moment = moment + timedelta(seconds=chance.choice((0, 0.4, 3)))
        await look(both)
        if chance.random() < 0.1:
            by = timedelta(minutes=chance.choice((-3000, -90, -1, 1, 45, 700, 9000)))
            wrong = chance.choice((clocks[:1], clocks[1:], clocks))
            for clock in wrong:
                clock.moment += by
            await look(both)
            for clock in clocks:
                clock.moment = moment + timedelta(seconds=5)
            await look(both)
    told = Counter(run for run in await scene.runs() if run[2] < end)
    assert told == expected
    assert set(told.values()) == {1}
    assert all(scheduler.ticks > len(expected) / 20 for scheduler in both)
    assert [scheduler.failures for scheduler in both] == [0, 0]


async def put_all(
    scene: ScheduleWorld,
    zones: tuple[str, ...],
    patterns: tuple[Pattern, ...],
    start: datetime,
    end: datetime,
) -> Counter[Tick]:
    """Make a schedule of each pattern in each zone and return every tick there has to be."""
    expected: Counter[Tick] = Counter()
    for zone in zones:
        tenant = tenant_in(zone)
        for pattern, ticks in ticks_of(patterns, zone, start, end, step_min=15).items():
            name = f"p{patterns.index(pattern)}"
            await scene.put(tenant, name, cron=pattern.cron)
            expected.update((tenant, name, tick) for tick in ticks)
    return expected


async def look(schedulers: list[Scheduler]) -> None:
    """Both look at the same moment."""
    await asyncio.gather(*(scheduler.tick_once() for scheduler in schedulers))
