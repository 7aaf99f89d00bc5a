"""Figures of syncing for Prometheus: what this process counts, and how it saw the sources last."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from steelyard.core.clock import Clock
from steelyard.sync.figures import SyncFigures
from steelyard.sync.model import Circuit, DueTier, SourceStatus

CIRCUITS: Final = {Circuit.CLOSED: 0, Circuit.HALF_OPEN: 1, Circuit.OPEN: 2}
PREFIX: Final = "steelyard_sync_"
SOURCE: Final = ("tenant", "provider")


class Synced(Protocol):
    """What these figures are read from."""

    @property
    def figures(self) -> SyncFigures: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def seen(self) -> tuple[SourceStatus, ...]: ...


@dataclass(frozen=True, slots=True)
class SyncReading:
    """One family, laid out when somebody asks."""

    lay_out: Callable[[], Metric]

    def collect(self) -> Metric:
        """Lay out the family."""
        return self.lay_out()


def sync_readings(sync: Synced) -> list[SyncReading]:
    """Return the families of one process."""
    return [*_source_readings(sync), *_own_readings(sync.figures)]


def _source_readings(sync: Synced) -> list[SyncReading]:
    sources: dict[str, tuple[str, Callable[[SourceStatus], float]]] = {
        "in_flight": ("Targets in flight.", lambda one: one.in_flight),
        "tokens": ("Requests that may be sent now.", lambda one: one.budget.tokens),
        "circuit": ("0 closed, 1 half-open, 2 open.", lambda one: CIRCUITS[one.budget.circuit]),
        "paused": ("1 while paused.", lambda one: float(one.pause is not None)),
    }
    tiers: dict[str, tuple[str, Callable[[DueTier, datetime], float]]] = {
        "due": ("Syncs that are due, by tier.", lambda tier, _: tier.due),
        "oldest_due_seconds": (
            "How long the oldest of a tier waits.",
            lambda tier, now: max(0.0, (now - tier.oldest_due_at).total_seconds()),
        ),
    }
    return [
        *(SyncReading(partial(_of_sources, sync, name, *one)) for name, one in sources.items()),
        *(SyncReading(partial(_of_tiers, sync, name, *one)) for name, one in tiers.items()),
    ]


def _own_readings(figures: SyncFigures) -> list[SyncReading]:
    counted: dict[str, tuple[str, Callable[[], float]]] = {
        "leases_lost": ("Leases that ran out.", lambda: figures.leases_lost),
        "results_late": ("Results refused as late.", lambda: figures.late),
        "results_lost": ("Results that could not be written.", lambda: figures.lost),
        "turns_failed": ("Turns of the worker that failed.", lambda: figures.failed_turns),
    }
    return [
        *(SyncReading(partial(_counted, name, *one)) for name, one in counted.items()),
        SyncReading(partial(_counted_by, "attempts", "state", figures.finished)),
        SyncReading(partial(_counted_by, "logins", "result", figures.logins)),
        SyncReading(partial(_login_waits, figures)),
    ]


def _of_sources(
    sync: Synced, name: str, told: str, read: Callable[[SourceStatus], float]
) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, told, labels=SOURCE)
    for one in sync.seen:
        family.add_metric((one.tenant, one.provider), read(one))
    return family


def _of_tiers(
    sync: Synced, name: str, told: str, read: Callable[[DueTier, datetime], float]
) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, told, labels=(*SOURCE, "tier"))
    for one in sync.seen:
        now = sync.clock.now()
        for tier in one.tiers:
            family.add_metric((one.tenant, one.provider, tier.tier), read(tier, now))
    return family


def _counted(name: str, told: str, read: Callable[[], float]) -> Metric:
    return CounterMetricFamily(PREFIX + name, told, value=read())


def _counted_by(name: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, f"Syncs: {name}, by {label}.", labels=(label,))
    for word, count in sorted(counts.items()):
        family.add_metric((word,), count)
    return family


def _login_waits(figures: SyncFigures) -> Metric:
    family = HistogramMetricFamily(PREFIX + "login_wait_seconds", "From a login to its answer.")
    family.add_metric((), figures.login_buckets(), figures.login_wait_sum_s)
    return family
