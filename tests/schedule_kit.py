"""What schedules are checked against: every few minutes of years looked at one by one, without the rules they prove."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

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
