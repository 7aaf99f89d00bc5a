"""What schedules are checked against: every few minutes of years looked at one by one, without the rules they prove."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg

from steelyard.access.model import Principal, Role
from steelyard.access.tenants import create_tenant
from steelyard.core.ids import TenantId, UserId
from steelyard.jobs.model import HandledKind, Kind, Kinds, RunContext
from steelyard.runtime.database import Database, connect
from steelyard.schedules.defaults import DEFAULT_NAMES
from steelyard.schedules.edit_schedules import Edits, Wanted, get_schedule, put_schedule
from steelyard.schedules.model import Schedule, Timing
from steelyard.schedules.run_schedules import Scheduler
from steelyard.testing.clock import FrozenClock
from tests.world import FreshDatabase

ZONES = (
    "Europe/London",
    "America/New_York",
    "Australia/Lord_Howe",  # puts its clocks forward by half an hour
    "Africa/Casablanca",  # back for Ramadan, four changes in some years
    "Africa/Lusaka",  # never
    "Asia/Kathmandu",  # 5:45 from UTC
    "America/Santiago",  # goes forward at midnight
)
EVERY = frozenset({-1})
"""In place of a set of numbers: all of them."""


@dataclass(frozen=True)
class Pattern:
    """A cron expression as sets of numbers; weekdays as in cron, 0 is Sunday."""

    minutes: frozenset[int]
    hours: frozenset[int] = EVERY
    days: frozenset[int] = EVERY
    months: frozenset[int] = EVERY
    weekdays: frozenset[int] = EVERY

    @property
    def cron(self) -> str:
        """As it is written."""
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join(
            "*" if field == EVERY else ",".join(map(str, sorted(field))) for field in fields
        )

    @property
    def is_every_hour(self) -> bool:
        """Whether it follows real time."""
        return self.hours == EVERY or len(self.hours) == 24

    def fits(self, wall: datetime) -> bool:
        """Whether a minute on the wall is a tick's."""
        return (
            (self.minutes == EVERY or wall.minute in self.minutes)
            and (self.hours == EVERY or wall.hour in self.hours)
            and (self.months == EVERY or wall.month in self.months)
            and self._fits_day(wall)
        )

    def _fits_day(self, wall: datetime) -> bool:
        is_day = self.days == EVERY or wall.day in self.days
        is_weekday = self.weekdays == EVERY or wall.isoweekday() % 7 in self.weekdays
        if EVERY in (self.days, self.weekdays):
            return is_day and is_weekday
        return is_day or is_weekday


def ticks_of(
    patterns: Iterable[Pattern], zone: str, start: datetime, end: datetime, *, step_min: int = 1
) -> dict[Pattern, list[datetime]]:
    """Find the ticks after `start` and before `end` by looking at the wall every `step_min` minutes.

    A pattern for every hour ticks whenever the wall shows what fits. Any other ticks when the wall first shows a
    time that fits, or first shows a later one.
    """
    found: dict[Pattern, list[datetime]] = {pattern: [] for pattern in patterns}
    for instant, wall, passed in _walk(zone, start, end, timedelta(minutes=step_min)):
        for pattern, ticks in found.items():
            if pattern.fits(wall) if pattern.is_every_hour else any(map(pattern.fits, passed)):
                ticks.append(instant)
    return found


def _walk(
    zone: str, start: datetime, end: datetime, step: timedelta
) -> Iterator[tuple[datetime, datetime, list[datetime]]]:
    """Go from moment to moment: UTC, what the wall shows, and the times it never showed before or leaves out."""
    place, instant = ZoneInfo(zone), start
    newest = start.astimezone(place).replace(tzinfo=None)
    for _ in range(int((end - start) / step) - 1):
        instant += step
        wall = instant.astimezone(place).replace(tzinfo=None)
        passed = []
        while newest < wall:
            newest += step
            passed.append(newest)
        yield instant, wall, passed


def utc(*parts: int) -> datetime:
    """A moment in UTC."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


# --- on a real database -----------------------------------------------------------------------


async def do_nothing(context: RunContext) -> Mapping[str, object]:
    """A handler for kinds whose runs nobody works on here."""
    return {}


def kinds_of(*names: str) -> Kinds:
    """A registry of kinds."""
    return Kinds(HandledKind(Kind(name), do_nothing) for name in names)


KINDS = kinds_of(*DEFAULT_NAMES, "export")


@dataclass
class ScheduleWorld:
    """A database with schedules, and schedulers of several processes that look at it."""

    fresh: FreshDatabase
    database: Database
    clock: FrozenClock = field(default_factory=FrozenClock)

    def scheduler(self, **rest: Any) -> Scheduler:
        """Another process, with the world's clock unless it has one of its own."""
        parts = {"database": self.database, "clock": self.clock, "kinds": KINDS, **rest}
        return Scheduler(**parts)

    async def make_tenant(self, name: str, zone: str = "UTC") -> TenantId:
        """A tenant, without schedules yet."""
        tenant = TenantId(name)
        now = self.clock.now()
        await create_tenant(self.database, tenant, name=name, time_zone=zone, now=now)
        return tenant

    async def put(
        self, tenant: TenantId, name: str, *, is_on: bool = True, **timing: Any
    ) -> Schedule:
        """Make or change a schedule of kind `export`."""
        wanted = Wanted("export", Timing(**timing), is_on=is_on)
        async with self.database.unit_of_work(tenant) as uow:
            made, _ = await put_schedule(uow, name, wanted, self.edits(tenant))
        return made

    def edits(self, tenant: TenantId) -> Edits:
        """By an admin of a tenant, now."""
        return Edits(admin_of(tenant), KINDS, self.clock.now(), "req-1")

    async def find(self, tenant: TenantId, name: str) -> Schedule:
        """A schedule as it is."""
        async with self.database.unit_of_work(tenant) as uow:
            return await get_schedule(uow, name, now=self.clock.now())

    async def ask(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Look behind the wall, or break something there."""
        admin = await connect(self.fresh.admin_url)
        try:
            return await admin.fetch(sql, *args)
        finally:
            await admin.close()

    async def let_each_tick_have_a_run(self) -> None:
        """Let equal jobs not wait for each other, as if each was begun at once: else ticks share a run."""
        await self.ask(
            "CREATE FUNCTION public.apart() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " NEW.arguments_hash := sha256(random()::text::bytea); RETURN NEW; END $$"
        )
        await self.ask(
            "CREATE TRIGGER apart BEFORE INSERT ON steelyard.job FOR EACH ROW EXECUTE FUNCTION public.apart()"
        )

    async def runs(self, name: str | None = None) -> list[tuple[str, str, datetime]]:
        """Runs that schedules began: tenant, schedule, tick; of one name, or of all but what every tenant has."""
        rows = await self.ask(
            "SELECT tenant_id, schedule, planned_for FROM steelyard.run"
            " WHERE CASE WHEN $1::text IS NULL THEN NOT schedule = ANY ($2) ELSE schedule = $1 END"
            " ORDER BY planned_for, tenant_id, schedule",
            name,
            list(DEFAULT_NAMES),
        )
        return [(row["tenant_id"], row["schedule"], row["planned_for"]) for row in rows]


def admin_of(tenant: TenantId) -> Principal:
    """Who edits schedules of a tenant."""
    return Principal(tenant, "ada", Role.ADMIN, UserId("ada"))
