"""What `/metrics` tells of schedules."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from steelyard.schedules.run_schedules import Scheduler


@dataclass(frozen=True, slots=True)
class ScheduleReading:
    """One family of the figures of schedules, laid out when somebody asks."""

    lay_out: Callable[[], Metric]

    def collect(self) -> Metric:
        """Lay out the family."""
        return self.lay_out()


def schedule_readings(scheduler: Scheduler) -> list[ScheduleReading]:
    """Return every family of schedules."""
    return [
        ScheduleReading(partial(_ticks, scheduler)),
        ScheduleReading(partial(_failures, scheduler)),
        ScheduleReading(partial(_late, scheduler)),
    ]


def _ticks(scheduler: Scheduler) -> Metric:
    text = "Ticks of schedules that this process began."
    return CounterMetricFamily("steelyard_schedule_ticks", text, scheduler.ticks)


def _failures(scheduler: Scheduler) -> Metric:
    text = "Attempts of this process to begin a tick that failed; each is tried again."
    return CounterMetricFamily("steelyard_schedule_failures", text, scheduler.failures)


def _late(scheduler: Scheduler) -> Metric:
    text = "By how much the newest tick that this process began was late."
    return GaugeMetricFamily("steelyard_schedule_late_seconds", text, scheduler.late_s)
