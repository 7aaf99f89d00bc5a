"""All SQL of schedules."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg

from steelyard.core.ids import TenantId
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.schedules.model import AHEAD_MAX, Due, Family, Schedule, Timing

TICKS_KEPT = timedelta(days=35)
"""A clock may be wrong by as much, and no tick runs twice."""
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)

_SELECT = """
    SELECT s.*, t.time_zone AS tenant_zone FROM steelyard.schedule s JOIN steelyard.tenant t ON t.id = s.tenant_id
     WHERE s.tenant_id = $1"""
_PUT = """
    INSERT INTO steelyard.schedule (tenant_id, name, family, kind, subject, arguments, cron, every_s, zone, hours, next_at,
                                    counted_at, edited_at, edited_by)
    VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, $8, $9, $10, $11, $12, $12, $13)
    ON CONFLICT (tenant_id, name) DO {}"""
_REPLACE = """UPDATE SET kind = excluded.kind, subject = excluded.subject, arguments = excluded.arguments,
    cron = excluded.cron, every_s = excluded.every_s, zone = excluded.zone, hours = excluded.hours,
    next_at = excluded.next_at, counted_at = excluded.counted_at, edited_at = excluded.edited_at,
    edited_by = excluded.edited_by"""
_RECORD_TICK = """
    WITH old AS (
        DELETE FROM steelyard.schedule_tick
         WHERE tenant_id = $1 AND schedule = $2 AND planned_for < $7 AND ticked_at < $7),
    new AS (
        INSERT INTO steelyard.schedule_tick (tenant_id, schedule, planned_for, ticked_at, run_id)
        VALUES ($1, $2, $3, $4, $5))
    UPDATE steelyard.schedule SET next_at = $6, counted_at = $4, last_planned_for = $3, last_run_id = $5
     WHERE tenant_id = $1 AND name = $2"""


async def list_schedules(uow: UnitOfWork) -> list[Schedule]:
    """Return the tenant's schedules by name."""
    rows = await uow.fetch(f"{_SELECT} ORDER BY s.name", uow.tenant)
    return [_schedule_of(row) for row in rows]


async def list_names(uow: UnitOfWork, names: Sequence[str]) -> set[str]:
    """Return which of these names the tenant has a schedule of."""
    rows = await uow.fetch(
        "SELECT name FROM steelyard.schedule WHERE tenant_id = $1 AND name = ANY ($2)",
        uow.tenant,
        list(names),
    )
    return {row["name"] for row in rows}


async def find_schedule(uow: UnitOfWork, name: str) -> Schedule | None:
    """Return a schedule of the tenant."""
    row = await uow.fetchrow(f"{_SELECT} AND s.name = $2", uow.tenant, name)
    return None if row is None else _schedule_of(row)


async def lock_schedule(uow: UnitOfWork, name: str) -> Schedule | None:
    """Return a schedule of the tenant, locked until `uow` ends; waits for whoever has it."""
    row = await uow.fetchrow(f"{_SELECT} AND s.name = $2 FOR NO KEY UPDATE OF s", uow.tenant, name)
    return None if row is None else _schedule_of(row)


async def lock_free_schedule(uow: UnitOfWork, name: str) -> Schedule | None:
    """Return a schedule of the tenant, locked until `uow` ends; None where somebody else has it."""
    row = await uow.fetchrow(
        f"{_SELECT} AND s.name = $2 FOR NO KEY UPDATE OF s SKIP LOCKED", uow.tenant, name
    )
    return None if row is None else _schedule_of(row)


async def lock_followers_of_zone(uow: UnitOfWork) -> list[Schedule]:
    """Return the tenant's schedules that are on and tick in its own zone, locked."""
    rows = await uow.fetch(
        f"{_SELECT} AND s.zone IS NULL AND s.next_at IS NOT NULL ORDER BY s.name"
        " FOR NO KEY UPDATE OF s",
        uow.tenant,
    )
    return [_schedule_of(row) for row in rows]


async def put_schedule(uow: UnitOfWork, schedule: Schedule) -> None:
    """Write a schedule in place of the one of its name, whose family and newest tick stay."""
    await uow.execute(_PUT.format(_REPLACE), *_values_of(schedule))


async def add_schedule(uow: UnitOfWork, schedule: Schedule) -> None:
    """Write a schedule unless there is one of its name."""
    await uow.execute(_PUT.format("NOTHING"), *_values_of(schedule))


async def delete_schedule(uow: UnitOfWork, name: str) -> None:
    """Forget a schedule and its ticks; the runs they began stay."""
    await uow.execute(
        "DELETE FROM steelyard.schedule WHERE tenant_id = $1 AND name = $2", uow.tenant, name
    )


async def move_schedule(
    uow: UnitOfWork, name: str, *, next_at: datetime | None, now: datetime
) -> None:
    """Write when a schedule ticks next, found at `now`."""
    await uow.execute(
        "UPDATE steelyard.schedule SET next_at = $3, counted_at = $4 WHERE tenant_id = $1 AND name = $2",
        uow.tenant,
        name,
        next_at,
        now,
    )


async def list_ticks(uow: UnitOfWork, name: str, *, since: datetime, limit: int) -> set[datetime]:
    """Return which ticks of a schedule were, from `since` on, the oldest first."""
    rows = await uow.fetch(
        "SELECT planned_for FROM steelyard.schedule_tick"
        " WHERE tenant_id = $1 AND schedule = $2 AND planned_for >= $3 ORDER BY planned_for LIMIT $4",
        uow.tenant,
        name,
        since,
        limit,
    )
    return {row["planned_for"] for row in rows}


async def record_tick(
    uow: UnitOfWork, due: Due, run: int, *, next_at: datetime | None, now: datetime
) -> None:
    """Write that a tick was, with the run it began, and when the next one is; forget ticks of long ago."""
    await uow.execute(
        _RECORD_TICK, uow.tenant, due.name, due.next_at, now, run, next_at, now - TICKS_KEPT
    )


async def set_tenant_zone(uow: UnitOfWork, zone: str) -> str | None:
    """Set the tenant's time zone; returns the one before."""
    before: str | None = await uow.fetchval(
        "SELECT steelyard.set_tenant_zone($1, $2)", uow.tenant, zone
    )
    return before


# --- of the whole installation ----------------------------------------------------------------


async def list_due(
    database: Database,
    kinds: Sequence[str],
    families: Sequence[Family],
    *,
    after: Due | None,
    limit: int,
    now: datetime,
) -> list[Due]:
    """Return schedules of any tenant that are due, the longest due first; those behind `after`."""
    place = after or Due(TenantId(""), "", LONG_AGO)
    rows = await database.fetch(
        "SELECT * FROM steelyard.list_due_schedules($1, $2, $3, $4, $5, $6, $7)",
        now,
        list(kinds),
        list(families),
        limit,
        place.next_at,
        place.tenant,
        place.name,
    )
    return [Due(TenantId(row["tenant_id"]), row["name"], row["next_at"]) for row in rows]


async def list_counted_ahead(
    database: Database, *, limit: int, now: datetime
) -> list[tuple[TenantId, str]]:
    """Return schedules of any tenant whose next tick was found by a clock that has been put back since."""
    rows = await database.fetch(
        "SELECT * FROM steelyard.list_schedules_counted_ahead($1, $2)", now + AHEAD_MAX, limit
    )
    return [(TenantId(row["tenant_id"]), row["name"]) for row in rows]


async def list_tenants_lacking(
    database: Database, names: Sequence[str], *, limit: int
) -> list[TenantId]:
    """Return tenants that lack one of these schedules."""
    rows = await database.fetch(
        "SELECT * FROM steelyard.list_tenants_lacking_schedules($1, $2)", list(names), limit
    )
    return [TenantId(row["tenant_id"]) for row in rows]


def _values_of(schedule: Schedule) -> tuple[object, ...]:
    timing = schedule.timing
    return (
        schedule.tenant,
        schedule.name,
        schedule.family,
        schedule.kind,
        schedule.subject,
        json.dumps(dict(schedule.arguments)),
        timing.cron,
        timing.every_s,
        timing.zone,
        timing.hours,
        schedule.next_at,
        schedule.edited_at,
        schedule.edited_by,
    )


def _schedule_of(row: asyncpg.Record) -> Schedule:
    return Schedule(
        tenant=TenantId(row["tenant_id"]),
        name=row["name"],
        family=Family(row["family"]),
        kind=row["kind"],
        subject=row["subject"],
        timing=Timing(row["cron"], row["every_s"], row["zone"], row["hours"]),
        tenant_zone=row["tenant_zone"],
        next_at=row["next_at"],
        counted_at=row["counted_at"],
        last_planned_for=row["last_planned_for"],
        last_run=row["last_run_id"],
        edited_at=row["edited_at"],
        edited_by=row["edited_by"],
        arguments=json.loads(row["arguments"]),
    )
