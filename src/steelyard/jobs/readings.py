"""What `/metrics` tells of jobs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from steelyard.jobs.run_jobs import JobFigures


@dataclass(frozen=True, slots=True)
class JobReading:
    """One family of the figures of jobs, laid out when somebody asks."""

    lay_out: Callable[[], Metric]

    def collect(self) -> Metric:
        """Lay out the family."""
        return self.lay_out()


def job_readings(figures: JobFigures) -> list[JobReading]:
    """Return every family of jobs."""
    return [
        JobReading(partial(_queue, figures)),
        JobReading(partial(_attempts, figures)),
        JobReading(
            partial(_counter, figures, "rescued", "Jobs taken from workers that fell silent.")
        ),
        JobReading(
            partial(_counter, figures, "lost", "Attempts whose job another worker has by now.")
        ),
    ]


def _queue(figures: JobFigures) -> Metric:
    made = GaugeMetricFamily(
        "steelyard_job_queue",
        "Jobs of the whole installation, as counted some seconds ago.",
        labels=("kind", "state"),
    )
    for kind, counts in sorted(figures.jobs.items()):
        for state in ("waiting", "active", "delayed", "dead"):
            made.add_metric((kind, state), getattr(counts, state))
    return made


def _attempts(figures: JobFigures) -> Metric:
    made = CounterMetricFamily(
        "steelyard_job_attempts",
        "Attempts that ended in this process, by what followed.",
        labels=("kind", "outcome"),
    )
    for outcome in ("completed", "retried", "failed", "cancelled"):
        for kind, count in sorted(getattr(figures, outcome).items()):
            made.add_metric((kind, outcome), count)
    return made


def _counter(figures: JobFigures, name: str, text: str) -> Metric:
    return CounterMetricFamily(f"steelyard_job_{name}", text, value=getattr(figures, name))
