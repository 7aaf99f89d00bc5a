"""Making, changing, running and removing schedules; each act is in the audit record with it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from steelyard.access.audit import record_audit
from steelyard.access.model import Principal
from steelyard.access.tenants import get_tenant
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import IdSource
from steelyard.jobs.model import Kinds, RequestedRun, RunRequest
from steelyard.jobs.request_run import request_run
from steelyard.runtime.database import UnitOfWork
from steelyard.runtime.zones import find_zone
from steelyard.schedules import store
from steelyard.schedules.defaults import WHOLE_TENANT, make_defaults
from steelyard.schedules.model import Family, Schedule, Timing, rule_of
from steelyard.schedules.rules import check_period, next_tick, parse_cron

SCHEDULES_MAX: Final = 1_000
ARGUMENTS_LENGTH_MAX: Final = 16_384
HOURS_LENGTH_MAX: Final = 60
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9:._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A schedule as it is to be."""

    kind: str
    timing: Timing
    subject: str = WHOLE_TENANT
    arguments: Mapping[str, object] = field(default_factory=dict)
    is_on: bool = True


@dataclass(frozen=True, slots=True)
class Edits:
    """Who edits, with which kinds of jobs to choose from, when, and by which request."""

    by: Principal
    kinds: Kinds
    now: datetime
    request_id: str | None = None


def with_timing(wanted: Wanted, timing: Mapping[str, Any], given: Mapping[str, Any]) -> Wanted:
    """Return a schedule with other fields of its timing, and other fields of its own.

    A cron expression takes the place of a period, and the other way round.
    """
    changed = dict(timing)
    if changed.get("cron") is not None:
        changed.setdefault("every_s", None)
    elif changed.get("every_s") is not None:
        changed.setdefault("cron", None)
    return replace(wanted, timing=replace(wanted.timing, **changed), **given)


async def list_schedules(uow: UnitOfWork, *, now: datetime) -> list[Schedule]:
    """Return the tenant's schedules by name; those that every tenant has are made where they are missing."""
    await make_defaults(uow, now=now)
    return await store.list_schedules(uow)


async def get_schedule(uow: UnitOfWork, name: str, *, now: datetime) -> Schedule:
    """Return one schedule of the tenant.

    Raises:
        NotFound: There is none of this name.
    """
    await make_defaults(uow, now=now)
    found = await store.find_schedule(uow, name)
    if found is None:
        raise NotFound(kind="schedule", identifier=name[:80])
    return found


async def put_schedule(
    uow: UnitOfWork, name: str, wanted: Wanted, edits: Edits
) -> tuple[Schedule, bool]:
    """Make a schedule, or put it in place of the one of its name; its next tick is later than now.

    Returns:
        The schedule, and whether it is new.
    Raises:
        InvalidInput: A value is not acceptable, it would not tick within ten years, the tenant has 1000 schedules,
            or one that every tenant has was to do something else.
        UnknownKind: There is no such kind of job.
    """
    await make_defaults(uow, now=edits.now)
    before = await store.lock_schedule(uow, name)
    made = await _build(uow, name, wanted, before=before, edits=edits)
    if before is None and len(await store.list_schedules(uow)) >= SCHEDULES_MAX:
        problem = f"this tenant has {SCHEDULES_MAX} schedules already"
        raise InvalidInput(field="name", problem=problem)
    await store.put_schedule(uow, made)
    action = "schedule.change" if before else "schedule.create"
    await _record(uow, edits, action, name, details=_told(made))
    kept = await store.find_schedule(uow, name)
    assert kept is not None, "it was written in this unit of work"
    return kept, before is None


async def change_schedule(
    uow: UnitOfWork, name: str, change: Callable[[Wanted], Wanted], edits: Edits
) -> Schedule:
    """Change a schedule: `change` is given what it is and returns what it is to be.

    Raises:
        NotFound: There is none of this name.
        InvalidInput, UnknownKind: As `put_schedule`.
    """
    await make_defaults(uow, now=edits.now)
    found = await store.lock_schedule(uow, name)
    if found is None:
        raise NotFound(kind="schedule", identifier=name[:80])
    wanted = Wanted(found.kind, found.timing, found.subject, found.arguments, found.is_on)
    changed, _ = await put_schedule(uow, name, change(wanted), edits)
    return changed


async def remove_schedule(uow: UnitOfWork, name: str, edits: Edits) -> None:
    """Remove a schedule that an admin made; runs it began stay and go on.

    Raises:
        NotFound: There is none of this name.
        InvalidInput: Every tenant has it; it can be switched off.
    """
    found = await get_schedule(uow, name, now=edits.now)
    if found.family is not Family.OWN:
        problem = f"every tenant has {name!r}; switch it off instead"
        raise InvalidInput(field="name", problem=problem)
    await store.delete_schedule(uow, name)
    await _record(uow, edits, "schedule.remove", name)


async def run_schedule(uow: UnitOfWork, name: str, edits: Edits, *, ids: IdSource) -> RequestedRun:
    """Begin a run now, whether the schedule is on or off; its next tick stays where it is.

    Raises:
        NotFound: There is none of this name.
        UnknownKind: This process does not know its kind of job.
    """
    found = await get_schedule(uow, name, now=edits.now)
    wanted = RunRequest(
        found.subject,
        found.arguments,
        schedule=name,
        wants_token=True,
        requested_by=edits.by.subject,
    )
    kind = edits.kinds.get(found.kind).kind
    requested = await request_run(uow, kind, wanted, now=edits.now, ids=ids)
    await _record(uow, edits, "schedule.run", name, details={"run": str(requested.run)})
    return requested


async def set_zone(uow: UnitOfWork, zone: str, *, by: Principal, now: datetime) -> int:
    """Set the tenant's time zone; schedules that follow it tick by the new one from now on.

    Returns:
        How many follow it.
    Raises:
        InvalidInput: It is no IANA time zone.
        NotFound: There is no such tenant.
    """
    find_zone(zone, field="time_zone")
    before = await store.set_tenant_zone(uow, zone)
    if before is None:
        raise NotFound(kind="tenant", identifier=uow.tenant)
    followers = await store.lock_followers_of_zone(uow)
    for one in followers:
        next_at = next_tick(one.rule, now)
        await store.move_schedule(uow, one.name, next_at=next_at, now=now)
    await record_audit(
        uow,
        by,
        action="tenant.zone",
        target=f"tenant:{uow.tenant}",
        now=now,
        details={"before": before, "after": zone},
    )
    return len(followers)


async def _build(
    uow: UnitOfWork,
    name: str,
    wanted: Wanted,
    *,
    before: Schedule | None,
    edits: Edits,
) -> Schedule:
    """Check every value and return the schedule to write."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            field="name", problem="use 1 to 63 of a-z, 0-9 and :._-, a letter or digit first"
        )
    kind = edits.kinds.get(wanted.kind).kind.name
    subject, arguments = _check_work(wanted)
    if before is not None and before.family is not Family.OWN:
        work = (before.kind, before.subject, dict(before.arguments))
        if (kind, subject, arguments) != work:
            problem = f"what {name!r} does cannot be changed; make a schedule of your own for it"
            raise InvalidInput(field="kind", problem=problem)
    tenant, timing = await get_tenant(uow), _check_timing(wanted.timing)
    rule = rule_of(timing, uow.tenant, name, tenant_zone=tenant.time_zone)
    next_at = next_tick(rule, edits.now)
    if next_at is None:
        problem = "it would not tick within the next ten years"
        raise InvalidInput(field="hours" if timing.hours else "cron", problem=problem)
    return Schedule(
        tenant=uow.tenant,
        name=name,
        family=Family.OWN if before is None else before.family,
        kind=kind,
        subject=subject,
        timing=timing,
        tenant_zone=tenant.time_zone,
        next_at=next_at if wanted.is_on else None,
        counted_at=edits.now,
        last_planned_for=None if before is None else before.last_planned_for,
        last_run=None if before is None else before.last_run,
        edited_at=edits.now,
        edited_by=edits.by.subject,
        arguments=arguments,
    )


def _check_timing(timing: Timing) -> Timing:
    if (timing.cron is None) is (timing.every_s is None):
        raise InvalidInput(field="cron", problem="give either cron or every_s")
    if timing.every_s is not None:
        check_period(timing.every_s)
    if timing.zone is not None:
        find_zone(timing.zone, field="zone")
    hours = None if timing.hours is None else " ".join(timing.hours.lower().split())
    if hours is not None and len(hours) > HOURS_LENGTH_MAX:
        problem = f"they must have at most {HOURS_LENGTH_MAX} characters"
        raise InvalidInput(field="hours", problem=problem)
    return replace(
        timing, cron=None if timing.cron is None else parse_cron(timing.cron), hours=hours
    )


def _check_work(wanted: Wanted) -> tuple[str, dict[str, object]]:
    if not 1 <= len(wanted.subject) <= 128 or not wanted.subject.isprintable():
        problem = "it must have 1 to 128 printable characters"
        raise InvalidInput(field="subject", problem=problem)
    arguments = dict(wanted.arguments)
    try:
        written = json.dumps(arguments, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise InvalidInput(field="arguments", problem="they must be JSON values") from error
    if len(written) > ARGUMENTS_LENGTH_MAX or b"\\u0000" in written:
        problem = f"they must have at most {ARGUMENTS_LENGTH_MAX} bytes as JSON, none of them NUL"
        raise InvalidInput(field="arguments", problem=problem)
    return wanted.subject, arguments


def _told(schedule: Schedule) -> dict[str, object]:
    """Return what the audit record keeps of a schedule: no arguments, they may name persons."""
    timing = schedule.timing
    return {
        "kind": schedule.kind,
        "cron": timing.cron,
        "every_s": timing.every_s,
        "zone": timing.zone,
        "hours": timing.hours,
        "enabled": schedule.is_on,
    }


async def _record(
    uow: UnitOfWork,
    edits: Edits,
    action: str,
    name: str,
    *,
    details: Mapping[str, object] | None = None,
) -> None:
    await record_audit(
        uow,
        edits.by,
        action=action,
        target=f"schedule:{name}",
        now=edits.now,
        request_id=edits.request_id,
        details=details,
    )
