"""What syncing counts in this process, with plain integers, and what a worker last saw of the sources."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from steelyard.sync.model import SyncResult

LOGIN_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 5.0)


@dataclass(slots=True, eq=False)
class SyncFigures:
    """Counted since the process began."""

    late: int = 0
    """Results that came after their lease and were refused."""
    lost: int = 0
    """Results that could not be written; their leases run out and they are fetched again."""
    leases_lost: int = 0
    """Leases of any worker that ran out, as this one found them."""
    failed_turns: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    """Attempts that were written, by state."""
    logins: Counter[str] = field(default_factory=Counter)
    """Logins answered, by `ok` or the reason."""
    _waits: list[int] = field(default_factory=lambda: [0] * (len(LOGIN_BOUNDS_S) + 1))
    login_wait_sum_s: float = 0.0

    def note_login(self, answer: SyncResult, took_s: float) -> None:
        """Count one login that was answered after `took_s`."""
        self.logins["ok" if answer.ok else str(answer.reason or "none")] += 1
        self._waits[bisect_left(LOGIN_BOUNDS_S, took_s)] += 1
        self.login_wait_sum_s += took_s

    def login_buckets(self) -> list[tuple[str, float]]:
        """Return how many logins were answered within each bound, cumulative, as Prometheus counts."""
        total, rows = 0, []
        for bound, count in zip((*LOGIN_BOUNDS_S, float("inf")), self._waits, strict=True):
            total += count
            rows.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        return rows
