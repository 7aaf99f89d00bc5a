"""Figures for Prometheus, counted with plain integers and laid out when somebody asks.

A request is too hot for label look-ups and locks: `RequestFigures` keeps one small array per (method,
route, status), and `Figures.render` makes the exposition from it with prometheus-client.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the duration buckets, seconds."""

UNMATCHED = "(none)"
"""The route of a request that no route took: paths never become labels."""

Label = tuple[str, str, int]


@dataclass(slots=True)
class RequestFigures:
    """What the HTTP edge counts."""

    in_flight: int = 0
    unexpected: int = 0
    """Exceptions that were not ours."""
    _by_label: dict[Label, list[int]] = field(default_factory=dict)
    _sums_s: dict[Label, float] = field(default_factory=dict)

    def note(self, label: Label, duration_s: float) -> None:
        """Count one answered request: (method, route template, status)."""
        buckets = self._by_label.get(label)
        if buckets is None:
            buckets = self._by_label[label] = [0] * (len(BOUNDS_S) + 1)
            self._sums_s[label] = 0.0
        buckets[bisect_left(BOUNDS_S, duration_s)] += 1
        self._sums_s[label] += duration_s

    def count(self, *, route: str | None = None, status: int | None = None) -> int:
        """Return how many requests were answered, of one route or status or of all."""
        return sum(
            sum(buckets)
            for (_, of_route, of_status), buckets in self._by_label.items()
            if route in (None, of_route) and status in (None, of_status)
        )

    def collect(self) -> Iterator[Metric]:
        """Lay out the families."""
        requests = CounterMetricFamily(
            "steelyard_http_requests", "Requests answered.", labels=("method", "route", "status")
        )
        durations = HistogramMetricFamily(
            "steelyard_http_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
            labels=("method", "route", "status"),
        )
        for label, buckets in sorted(self._by_label.items()):
            names = (label[0], label[1], str(label[2]))
            requests.add_metric(names, sum(buckets))
            durations.add_metric(names, _cumulative(buckets), self._sums_s[label])
        yield requests
        yield durations
        yield GaugeMetricFamily(
            "steelyard_http_in_flight", "Requests being answered.", value=self.in_flight
        )
        yield CounterMetricFamily(
            "steelyard_unexpected_errors", "Exceptions nobody expected.", value=self.unexpected
        )


def _cumulative(buckets: Sequence[int]) -> list[tuple[str, float]]:
    total, rows = 0, []
    for bound, count in zip((*BOUNDS_S, float("inf")), buckets, strict=True):
        total += count
        rows.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
    return rows


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure somewhere in the process, read when somebody asks."""

    name: str
    help: str
    read: Callable[[], float]
    is_counter: bool = False

    def collect(self) -> Metric:
        """Lay out the family."""
        family = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        return family(self.name, self.help, value=self.read())


class Family(Protocol):
    """One figure or one family of them, laid out when somebody asks."""

    def collect(self) -> Metric:
        """Lay out the family."""
        ...


@dataclass(slots=True, eq=False)
class Figures(Collector):
    """All figures of one process, in a registry of their own."""

    requests: RequestFigures = field(default_factory=RequestFigures)
    _readings: list[Family] = field(default_factory=list)
    _registry: CollectorRegistry = field(
        default_factory=lambda: CollectorRegistry(auto_describe=False)
    )

    def __post_init__(self) -> None:
        self._registry.register(self)
        for one in (ProcessCollector, PlatformCollector, GCCollector):
            one(registry=self._registry)

    def add(self, readings: Iterable[Family]) -> None:
        """Include these from now on."""
        self._readings.extend(readings)

    def collect(self) -> Iterator[Metric]:
        """Lay out everything."""
        yield from self.requests.collect()
        for reading in self._readings:
            yield reading.collect()

    def render(self) -> tuple[bytes, str]:
        """Return the exposition text and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
