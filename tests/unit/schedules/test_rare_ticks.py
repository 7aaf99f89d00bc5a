"""Ticks that are rare or never come: finding them holds up nobody for long."""

import asyncio
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from steelyard.core.ids import TenantId
from steelyard.schedules import rules
from steelyard.schedules.hours import parse_hours
from steelyard.schedules.model import Family, Schedule, Timing
from steelyard.schedules.rules import Rule, next_tick, next_ticks
from steelyard.schedules.shapes import tell_schedules
from tests.schedule_kit import utc

NEW_YORK = ZoneInfo("America/New_York")
NOW = utc(2026, 11, 21)


def test_ten_years_are_looked_through_once_however_often_clocks_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[datetime] = []

    def count(cron: str, wall: datetime) -> CronSim:
        tried.append(wall)
        return CronSim(cron, wall)

    monkeypatch.setattr(rules, "CronSim", count)
    never = Rule(NEW_YORK, "0-56 * * * *", hours=parse_hours("08:57-08:58"))
    assert next_tick(never, NOW) is None
    assert 3_600 < len(tried) < 3_800  # one opening a day, one change of clocks twice a year


def test_a_tick_is_found_on_each_side_of_every_change_before_it() -> None:
    rare = Rule(NEW_YORK, "* * 29 2 *", hours=parse_hours("fri 08:00-08:01"))
    assert next_ticks(rare, NOW, 3) == [utc(2036, 2, 29, 13), utc(2036, 2, 29, 13, 1)]


async def test_others_are_served_while_many_schedules_are_told() -> None:
    timing = Timing("* * 29 2 *", zone="America/New_York", hours="fri 08:00-08:01")
    found = [
        Schedule(
            tenant=TenantId("acme"),
            name=f"rare-{number}",
            family=Family.OWN,
            kind="export",
            subject="tenant",
            timing=timing,
            tenant_zone="UTC",
            next_at=utc(2036, 2, 29, 13),
            counted_at=NOW,
            last_planned_for=None,
            last_run=None,
            edited_at=NOW,
            edited_by="ada",
        )
        for number in range(20)
    ]
    telling, served = asyncio.create_task(tell_schedules(found)), 0
    while not telling.done():
        await asyncio.sleep(0)
        served += 1
    assert served >= len(found)
    assert [len(one.next) for one in telling.result().data] == [2] * len(found)
