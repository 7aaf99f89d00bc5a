"""Hours within which a schedule may tick, such as `mon-fri 08:00-20:00`: on the wall, both ends included."""

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from steelyard.core.errors import InvalidInput

DAY_NAMES: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM: Final = re.compile(r"(?:([a-z,-]+) )?([0-2]\d:[0-5]\d)-([0-2]\d:[0-5]\d)")
_FIELD: Final = "hours"
_ONE_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Hours:
    """From one minute of the day to another, on some days of the week (0 is Monday).

    Where the last minute comes before the first one, the hours end on the next day; that part belongs to the day
    on which they began.
    """

    first: time
    last: time
    days: frozenset[int]

    def hold(self, wall: datetime) -> bool:
        """Whether a moment on the wall lies within; the whole last minute does."""
        minute = wall.time().replace(second=0, microsecond=0)
        if self.first <= self.last:
            return wall.weekday() in self.days and self.first <= minute <= self.last
        began = wall if minute >= self.first else wall - _ONE_DAY
        return began.weekday() in self.days and not self.last < minute < self.first

    def next_opening(self, wall: datetime) -> datetime:
        """Return the first moment after `wall` at which the hours begin."""
        opening = datetime.combine(wall.date(), self.first)
        while opening <= wall or opening.weekday() not in self.days:
            opening += _ONE_DAY
        return opening


def parse_hours(text: str) -> Hours:
    """Read hours: `08:00-20:00`, with days in front where not all are meant, `mon-fri,sun 08:00-20:00`.

    Raises:
        InvalidInput: The text is no such thing.
    """
    form = _FORM.fullmatch(text.strip().lower())
    if form is None:
        raise InvalidInput(
            field=_FIELD, problem=f"{text[:60]!r} is not of the form 'mon-fri 08:00-20:00'"
        )
    days, first, last = form.groups()
    hours = Hours(_minute(first), _minute(last), _days(days) if days else frozenset(range(7)))
    if hours.first == hours.last:
        raise InvalidInput(
            field=_FIELD, problem=f"{text[:60]!r} begins and ends in the same minute"
        )
    return hours


def _minute(text: str) -> time:
    try:
        return time.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(field=_FIELD, problem=f"{text!r} is no time of day") from error


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAY_NAMES or (dash and last not in DAY_NAMES):
            raise InvalidInput(
                field=_FIELD, problem=f"{part[:20]!r} names no days such as 'mon-fri'"
            )
        start, end = DAY_NAMES.index(first), DAY_NAMES.index(last if dash else first)
        found.update(day % 7 for day in range(start, (end if end >= start else end + 7) + 1))
    return frozenset(found)
