"""What a schedule is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from steelyard.core.ids import TenantId
from steelyard.runtime.zones import find_zone
from steelyard.schedules.hours import parse_hours
from steelyard.schedules.rules import Rule, spread_of

AHEAD_MAX: Final = timedelta(seconds=30)
"""By how much the clocks of two machines may differ. Shorter than any two ticks of a schedule are apart."""


class Family(StrEnum):
    """Where a schedule comes from, and so what switches it off."""

    UPKEEP = "upkeep"
    """Proofs and cleaning: made for every tenant."""
    SYNC = "sync"
    """Pulling from providers: SYNC_SCHEDULER_ENABLED switches all of them off."""
    OWN = "own"
    """Made by an admin."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When it ticks, as written: a cron expression or seconds between two ticks.

    `zone` is the tenant's where None; `hours` such as `mon-fri 08:00-20:00`.
    """

    cron: str | None = None
    every_s: int | None = None
    zone: str | None = None
    hours: str | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Named work of a tenant that begins by itself. Times are UTC."""

    tenant: TenantId
    name: str
    family: Family
    kind: str
    subject: str
    timing: Timing
    tenant_zone: str
    next_at: datetime | None
    """None: switched off."""
    counted_at: datetime
    """What the clock said when `next_at` was found."""
    last_planned_for: datetime | None
    last_run: int | None
    edited_at: datetime
    edited_by: str
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_on(self) -> bool:
        """Whether it ticks."""
        return self.next_at is not None

    @property
    def zone(self) -> str:
        """The zone it ticks in."""
        return self.timing.zone or self.tenant_zone

    @property
    def rule(self) -> Rule:
        """When it ticks.

        Raises:
            InvalidInput: This machine knows no such zone.
        """
        return rule_of(self.timing, self.tenant, self.name, tenant_zone=self.tenant_zone)

    def was_counted_ahead(self, now: datetime) -> bool:
        """Whether `next_at` was found by a clock that has been put back since."""
        return self.counted_at - now > AHEAD_MAX


@dataclass(frozen=True, slots=True)
class Due:
    """Names a schedule whose tick has come."""

    tenant: TenantId
    name: str
    next_at: datetime


def rule_of(timing: Timing, tenant: TenantId, name: str, *, tenant_zone: str) -> Rule:
    """Return the rule that a timing means for a schedule of this name.

    Raises:
        InvalidInput: Zone or hours are none.
    """
    return Rule(
        zone=find_zone(timing.zone or tenant_zone, field="zone"),
        cron=timing.cron,
        period_s=timing.every_s,
        spread_s=0 if timing.every_s is None else spread_of(timing.every_s, tenant, name),
        hours=None if timing.hours is None else parse_hours(timing.hours),
    )
