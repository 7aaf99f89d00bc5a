"""A clock that stands still until it is moved."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta


@dataclass(slots=True)
class FrozenClock:
    """Time as a test wants it."""

    moment: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    elapsed_s: float = 0.0

    def now(self) -> datetime:
        """Return the moment it was set to."""
        return self.moment

    def monotonic_s(self) -> float:
        """Return how far it has been moved, in seconds."""
        return self.elapsed_s

    def move(self, by: timedelta) -> None:
        """Let time pass."""
        self.moment += by
        self.elapsed_s += by.total_seconds()
