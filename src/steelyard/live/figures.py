"""What the gateway counts, and how it is laid out for Prometheus."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

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

    def lag_buckets(self) -> list[tuple[str, float]]:
        """Return how many steps were told within each bound, cumulative, as Prometheus counts."""
        total, rows = 0, []
        for bound, count in zip((*LAG_BOUNDS_S, float("inf")), self._lags, strict=True):
            total += count
            rows.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        return rows

    @property
    def lag_sum_s(self) -> float:
        """All lags together."""
        return self._lag_sum_s


@dataclass(frozen=True, slots=True)
class LiveReading:
    """One family of the gateway's figures, laid out when somebody asks."""

    lay_out: Callable[[], Metric]

    def collect(self) -> Metric:
        """Lay out the family."""
        return self.lay_out()


_COUNTERS: Final = {
    "merged": "Balance updates that became one because a reader was slow.",
    "heal_reads": "Reads of missing steps from the journal.",
    "sweep_finds": "Steps the sweep found that no messenger had brought.",
    "overruns": "Times the bus brought more at once than is kept.",
    "complaints": "Malformed frames and unknown events of clients.",
    "rate_limited": "Client messages beyond the rate.",
    "failures": "Work of the gateway that failed unexpectedly.",
}


def live_readings(figures: LiveFigures) -> list[LiveReading]:
    """Return every family of the gateway."""
    return [
        LiveReading(partial(_labelled, GaugeMetricFamily, "sessions", figures.sessions)),
        LiveReading(partial(_labelled, CounterMetricFamily, "endings", figures.endings)),
        LiveReading(partial(_labelled, CounterMetricFamily, "sent", figures.sent)),
        *(LiveReading(partial(_counter, figures, name)) for name in _COUNTERS),
        LiveReading(partial(_lag, figures)),
    ]


_LABELS: Final = {
    "sessions": ("transport", "Open sessions."),
    "endings": ("why", "Sessions that ended or were refused."),
    "sent": ("event", "Events handed to clients' connections."),
}


def _labelled(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str, counts: Counter[str]
) -> Metric:
    label, text = _LABELS[name]
    made = family(f"steelyard_live_{name}", text, labels=(label,))
    for value, count in sorted(counts.items()):
        made.add_metric((value,), count)
    return made


def _counter(figures: LiveFigures, name: str) -> Metric:
    value = getattr(figures, name)
    return CounterMetricFamily(f"steelyard_live_{name}", _COUNTERS[name], value=value)


def _lag(figures: LiveFigures) -> Metric:
    made = HistogramMetricFamily(
        "steelyard_live_push_lag_seconds", "From the posting of a step until it is told."
    )
    made.add_metric((), figures.lag_buckets(), figures.lag_sum_s)
    return made
