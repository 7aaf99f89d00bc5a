"""What the gateway counts, and how it is laid out for Prometheus."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(slots=True, eq=False)
class LiveFigures:
    """Plain integers; read when somebody asks."""

    sessions: Counter[str] = field(default_factory=Counter)
    """Open ones, by transport."""
    endings: Counter[str] = field(default_factory=Counter)
    """Sessions that ended or were refused, by word."""
    sent: Counter[str] = field(default_factory=Counter)
    """Events handed to transports, by name."""
    merged: int = 0
    heal_reads: int = 0
    sweep_finds: int = 0
    overruns: int = 0
    """Times the bus brought more at once than the gateway keeps; the sweep makes up for it."""
    complaints: int = 0
    """Malformed frames and unknown events."""
    rate_limited: int = 0
    failures: int = 0
    """Turns of the gateway's own work that failed unexpectedly."""
    _lags: list[int] = field(default_factory=lambda: [0] * (len(LAG_BOUNDS_S) + 1))
    _lag_sum_s: float = 0.0

    def note_lag(self, lag_s: float) -> None:
        """Count one step that was told `lag_s` after it was posted."""
        self._lags[bisect_left(LAG_BOUNDS_S, lag_s)] += 1
        self._lag_sum_s += max(0.0, lag_s)

    def families(self) -> Iterator[Metric]:
        """Lay out everything."""
        yield _labelled(GaugeMetricFamily, "sessions", "Open sessions.", "transport", self.sessions)
        yield _labelled(
            CounterMetricFamily,
            "endings",
            "Sessions that ended or were refused.",
            "why",
            self.endings,
        )
        yield _labelled(
            CounterMetricFamily,
            "sent",
            "Events handed to clients' connections.",
            "event",
            self.sent,
        )
        for name, text, value in (
            ("merged", "Balance updates that became one because a reader was slow.", self.merged),
            ("heal_reads", "Reads of missing steps from the journal.", self.heal_reads),
            (
                "sweep_finds",
                "Steps the sweep found that no messenger had brought.",
                self.sweep_finds,
            ),
            ("overruns", "Times the bus brought more at once than is kept.", self.overruns),
            ("complaints", "Malformed frames and unknown events of clients.", self.complaints),
            ("rate_limited", "Client messages beyond the rate.", self.rate_limited),
            ("failures", "Work of the gateway that failed unexpectedly.", self.failures),
        ):
            yield CounterMetricFamily(f"steelyard_live_{name}", text, value=value)
        lag = HistogramMetricFamily(
            "steelyard_live_push_lag_seconds", "From the posting of a step until it is told."
        )
        lag.add_metric((), self._cumulative(), self._lag_sum_s)
        yield lag

    def _cumulative(self) -> list[tuple[str, float]]:
        total, rows = 0, []
        for bound, count in zip((*LAG_BOUNDS_S, float("inf")), self._lags, strict=True):
            total += count
            rows.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        return rows


def _labelled(
    family: Callable[..., Metric], name: str, text: str, label: str, counts: Counter[str]
) -> Metric:
    made: Metric = family(f"steelyard_live_{name}", text, labels=(label,))
    for value, count in sorted(counts.items()):
        made.add_metric((value,), count)  # type: ignore[attr-defined]
    return made
