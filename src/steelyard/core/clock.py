"""Time comes in through a port, so that the whole product can run under virtual time."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return this moment as an aware UTC datetime."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that only ever grow; for deadlines and durations."""
        ...


def format_utc(moment: datetime) -> str:
    """Write an aware datetime as RFC 3339 in UTC with `Z` and microseconds only where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
