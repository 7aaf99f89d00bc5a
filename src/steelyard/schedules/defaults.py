"""The schedules that every tenant has from the first look at it: proofs at night, and cleaning."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from steelyard.access.model import SYSTEM_SUBJECT
from steelyard.access.tenants import get_tenant
from steelyard.runtime.database import UnitOfWork
from steelyard.schedules import store
from steelyard.schedules.model import Family, Schedule, Timing, rule_of
from steelyard.schedules.rules import next_tick

MADE_BY: Final = f"{SYSTEM_SUBJECT}schedules"
WHOLE_TENANT: Final = "tenant"
"""Subject of work that concerns all of a tenant."""


@dataclass(frozen=True, slots=True)
class Default:
    """A schedule to make; its name is the kind's."""

    kind: str
    cron: str
    family: Family = Family.UPKEEP
    hours: str | None = None


DEFAULTS: Final = (
    Default("balance-verify-sync", "0 2 * * *"),
    Default("balance-rebuild-monthly", "0 3 1 * *"),
    Default("clean-up", "0 3 * * *"),
)
DEFAULT_NAMES: Final = tuple(default.kind for default in DEFAULTS)


async def make_defaults(uow: UnitOfWork, *, now: datetime) -> None:
    """Make those of the tenant's schedules that it does not have yet; a changed one stays as it is."""
    there = await store.list_names(uow, DEFAULT_NAMES)
    missing = [default for default in DEFAULTS if default.kind not in there]
    if not missing:
        return
    tenant = await get_tenant(uow)
    for default in missing:
        timing = Timing(cron=default.cron, hours=default.hours)
        rule = rule_of(timing, tenant.id, default.kind, tenant_zone=tenant.time_zone)
        made = Schedule(
            tenant=tenant.id,
            name=default.kind,
            family=default.family,
            kind=default.kind,
            subject=WHOLE_TENANT,
            timing=timing,
            tenant_zone=tenant.time_zone,
            next_at=next_tick(rule, now),
            counted_at=now,
            last_planned_for=None,
            last_run=None,
            edited_at=now,
            edited_by=MADE_BY,
        )
        await store.add_schedule(uow, made)
