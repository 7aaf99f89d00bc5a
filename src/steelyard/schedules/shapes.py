"""What goes over the wire about schedules: strict in, plain out."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from steelyard.core.clock import format_utc
from steelyard.jobs.model import RequestedRun
from steelyard.schedules.defaults import WHOLE_TENANT
from steelyard.schedules.model import Schedule
from steelyard.schedules.rules import next_ticks

SHOWN_TICKS = 3
Text = Annotated[StrictStr, Field(max_length=200)]
Arguments = dict[str, Any]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class GivenSchedule(_Given):
    """A whole schedule; either `cron` or `every_s`. `zone` null: the tenant's; `hours` such as `mon-fri 08:00-20:00`."""

    kind: Text
    subject: Text = WHOLE_TENANT
    arguments: Arguments = {}
    cron: Text | None = None
    every_s: StrictInt | None = None
    zone: Text | None = None
    hours: Text | None = None
    enabled: StrictBool = True


class GivenScheduleEdit(_Given):
    """What to change; what is left out stays. A new `cron` takes the place of `every_s`, and the other way round."""

    kind: Text = ""
    subject: Text = ""
    arguments: Arguments = {}
    cron: Text | None = None
    every_s: StrictInt | None = None
    zone: Text | None = None
    hours: Text | None = None
    enabled: StrictBool = True


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class ToldTick(_Told):
    """A moment in UTC, and as the schedule's zone shows it."""

    at: str
    local: str


class ToldSchedule(_Told):
    """A schedule. `zone` is its own, `in_zone` the one it ticks in; `next` are its next ticks, none while it is off."""

    name: str
    family: str
    kind: str
    subject: str
    arguments: Arguments
    cron: str | None
    every_s: int | None
    zone: str | None
    in_zone: str
    hours: str | None
    enabled: bool
    next: list[ToldTick]
    last_planned_for: str | None
    last_run_id: str | None
    edited_at: str
    edited_by: str


class ToldSchedules(_Told):
    """All schedules of a tenant, by name."""

    data: list[ToldSchedule]


class ToldStarted(_Told):
    """The run that was begun. The token reads it at `GET /api/jobs/status`; it is told only here."""

    id: str
    jobId: str  # noqa: N815 - the reference's name
    publicAccessToken: str | None  # noqa: N815 - the reference's name


def tell_schedule(schedule: Schedule) -> ToldSchedule:
    """Return what is told of a schedule."""
    timing, last = schedule.timing, schedule.last_planned_for
    return ToldSchedule(
        name=schedule.name,
        family=schedule.family.value,
        kind=schedule.kind,
        subject=schedule.subject,
        arguments=dict(schedule.arguments),
        cron=timing.cron,
        every_s=timing.every_s,
        zone=timing.zone,
        in_zone=schedule.zone,
        hours=timing.hours,
        enabled=schedule.is_on,
        next=[_tell_tick(schedule, tick) for tick in ticks_ahead(schedule)],
        last_planned_for=None if last is None else format_utc(last),
        last_run_id=None if schedule.last_run is None else str(schedule.last_run),
        edited_at=format_utc(schedule.edited_at),
        edited_by=schedule.edited_by,
    )


async def tell_schedules(found: Sequence[Schedule]) -> ToldSchedules:
    """Return what is told of many; others are served between two, because a rare tick takes some time to find."""
    told: list[ToldSchedule] = []
    for one in found:
        told.append(tell_schedule(one))
        await asyncio.sleep(0)
    return ToldSchedules(data=told)


def tell_started(requested: RequestedRun) -> ToldStarted:
    """Return what is told of a run that was begun now."""
    run = str(requested.run)
    return ToldStarted(id=run, jobId=run, publicAccessToken=requested.token)


def ticks_ahead(schedule: Schedule) -> list[datetime]:
    """Return the next three ticks of a schedule, none while it is off."""
    if schedule.next_at is None:
        return []
    return [schedule.next_at, *next_ticks(schedule.rule, schedule.next_at, SHOWN_TICKS - 1)]


def _tell_tick(schedule: Schedule, tick: datetime) -> ToldTick:
    local = tick.astimezone(schedule.rule.zone).isoformat()
    return ToldTick(at=format_utc(tick), local=local)
