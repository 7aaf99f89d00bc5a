"""When a schedule ticks next. Plain functions of plain values: no clock, no database.

Two ways of following a clock that is put forward and back. A cron expression that names particular hours means times
on the wall: each runs once, also where the wall shows it twice (the first time counts) or not at all (it runs at the
moment the clocks go forward; several such times in one gap are one tick). An expression for every hour, and a period,
mean time that passes: they tick at every real moment that fits, so once in each hour that really goes by.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from steelyard.core.errors import InvalidInput
from steelyard.schedules.hours import Hours

HORIZON: Final = timedelta(days=3660)
"""A schedule that would not tick within ten years is refused."""
CRON_LENGTH_MAX: Final = 200
PERIOD_S_MIN: Final = 60
PERIOD_S_MAX: Final = 366 * 86_400
NAMED_CRONS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - on the wall of whatever zone
_SECOND: Final = timedelta(seconds=1)
_TINY: Final = timedelta(microseconds=1)
_PROBE_EVERY: Final = timedelta(hours=6)  # no zone changes twice within it
_START: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - to try an expression

Walls = Callable[[datetime], datetime | None]
"""The first moment on the wall after another at which a pattern fits."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Either a cron expression of five fields or a period; in `zone`, within `hours` if given.

    A period's ticks are `spread_s` after its multiples since 1970, so that many of one period do not tick at once.
    """

    zone: ZoneInfo
    cron: str | None = None
    period_s: int | None = None
    spread_s: int = 0
    hours: Hours | None = None


def next_tick(rule: Rule, after: datetime) -> datetime | None:
    """Return the first tick later than `after` (UTC), or None if there is none within ten years."""
    if rule.cron is not None and not _fits_every_hour(rule.cron):
        return _next_on_the_wall(rule, after)
    return _next_in_real_time(rule, after)


def next_ticks(rule: Rule, after: datetime, count: int) -> list[datetime]:
    """Return the first `count` ticks later than `after`, fewer where there are no more."""
    found: list[datetime] = []
    tick = next_tick(rule, after)
    while tick is not None and len(found) < count:
        found.append(tick)
        tick = next_tick(rule, tick)
    return found


def parse_cron(text: str) -> str:
    """Return a cron expression in the form that is kept: five fields, one space between.

    Raises:
        InvalidInput: It is none, or no day ever fits it.
    """
    cron = NAMED_CRONS.get(text.strip().lower()) or " ".join(text.split()).upper()
    if len(cron) > CRON_LENGTH_MAX or len(cron.split(" ")) != 5:
        raise InvalidInput(field="cron", problem=f"{text[:80]!r} is not five fields")
    try:
        CronSim(cron, _START)
    except (CronSimError, ValueError) as error:
        raise InvalidInput(field="cron", problem=f"{text[:80]!r}: {error}") from error
    return cron


def check_period(period_s: int) -> None:
    """Refuse a period that is too short or too long.

    Raises:
        InvalidInput: It is not between a minute and 366 days.
    """
    if not PERIOD_S_MIN <= period_s <= PERIOD_S_MAX:
        problem = f"{period_s} is not between {PERIOD_S_MIN} and {PERIOD_S_MAX} seconds"
        raise InvalidInput(field="every_s", problem=problem)


def spread_of(period_s: int, *names: str) -> int:
    """Return by how many seconds the ticks of a period are late: the same for the same names, spread over the period."""
    digest = blake2b("|".join(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest) % period_s


# --- one pass over the wall ---------------------------------------------------------------------


def _next_on_the_wall(rule: Rule, after: datetime) -> datetime | None:
    """Each fitting time on the wall is one tick; those that the wall leaves out are at the end of the gap."""
    wall, walls = _wall_at(after, rule.zone), _walls_of(rule, timedelta())
    until = wall + HORIZON
    while (found := _first_within(rule.hours, walls, wall, until)) is not None:
        instant = instant_of(found, rule.zone)
        if instant > after:
            return instant
        wall = found
    return None


def _next_in_real_time(rule: Rule, after: datetime) -> datetime | None:
    """Go from one change of the zone's offset to the next; between two the wall runs as time does."""
    start, wall = after, _wall_at(after, rule.zone)
    until = after + HORIZON
    while True:
        offset, change = _offset_at(start, rule.zone), _first_change(rule.zone, start, until)
        end = (
            until if change is None else change - _TINY
        )  # a tick at the change is one of its other side
        found = _first_within(
            rule.hours, _walls_of(rule, offset), wall, end.replace(tzinfo=None) + offset
        )
        if found is not None:
            return (found - offset).replace(tzinfo=UTC)
        if change is None:
            return None
        start, wall = change, _wall_at(change, rule.zone) - _SECOND


def _first_within(
    hours: Hours | None, walls: Walls, wall: datetime, until: datetime
) -> datetime | None:
    """Return the first fitting moment on the wall after `wall` and not after `until` that lies within the hours."""
    while (found := walls(wall)) is not None and found <= until:
        if hours is None or hours.hold(found):
            return found
        wall = hours.next_opening(found) - _SECOND
    return None


def _walls_of(rule: Rule, offset: timedelta) -> Walls:
    """Return the rule's pattern on the wall while the zone is `offset` from UTC."""
    if rule.cron is not None:
        cron = rule.cron
        return lambda wall: _next_wall(cron, wall)
    assert rule.period_s is not None, "a rule has a cron expression or a period"
    period, shift = timedelta(seconds=rule.period_s), timedelta(seconds=rule.spread_s) + offset
    return lambda wall: _EPOCH + shift + ((wall - _EPOCH - shift) // period + 1) * period


@lru_cache(maxsize=4_096)
def _next_wall(cron: str, wall: datetime) -> datetime | None:
    return next(CronSim(cron, wall), None)


def _fits_every_hour(cron: str) -> bool:
    return len(CronSim(cron, _START).hours) == 24


# --- zones --------------------------------------------------------------------------------------


def instant_of(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return when a zone's wall first shows `wall`; where it never does, when the clocks go forward over it."""
    instant = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _wall_at(instant, zone) == wall:
        return instant
    early = wall.replace(tzinfo=zone, fold=1).astimezone(
        UTC
    )  # before the gap, as `instant` is after it
    return _bisect_change(zone, early, instant)


def _wall_at(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset_at(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None, "a zone has an offset at any time"
    return offset


def _first_change(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """Return the first moment after `start` and not after `end` at which the zone's offset changes."""
    for year in range(start.year, end.year + 1):
        for change in _changes_of(zone, year):
            if change > start:
                return change if change <= end else None
    return None


@lru_cache(maxsize=4_096)
def _changes_of(zone: ZoneInfo, year: int) -> tuple[datetime, ...]:
    """Return the moments after the begin of a year in UTC, up to that of the next, at which the zone's offset changes."""
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    found: list[datetime] = []
    offset = _offset_at(start, zone)
    while start < end:
        probe = start + _PROBE_EVERY
        before, offset = offset, _offset_at(probe, zone)
        if offset != before:
            found.append(_bisect_change(zone, start, probe))
        start = probe
    return tuple(found)


def _bisect_change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the moment, to the second, at which the offset becomes what it is at `after`."""
    offset = _offset_at(after, zone)
    before, after = before.replace(microsecond=0), after.replace(microsecond=0)
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if _offset_at(middle, zone) == offset:
            after = middle
        else:
            before = middle
    return after
