"""How many runs stand where and how long they take, by kind."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from steelyard.jobs.seen_run import KindFigures
from steelyard.jobs.store import runs
from steelyard.jobs.store.runs import Bounds
from steelyard.runtime.database import UnitOfWork

COUNTED_MAX: Final = 100_000
"""Runs of a kind and state are counted up to here."""
TIMED_MAX: Final = 10_000
"""The newest completed runs of a kind whose durations are looked at."""
PERIOD: Final = timedelta(days=1)
"""Of runs that have ended, those asked for in this time are counted."""


async def load_figures(
    uow: UnitOfWork, known: Iterable[str], *, now: datetime
) -> list[KindFigures]:
    """Return the figures of every kind of which the tenant has runs, and of those in `known`, by name."""
    kinds = sorted({*known, *await runs.list_kinds(uow)})
    bounds = Bounds(COUNTED_MAX, TIMED_MAX)
    return await runs.load_figures(uow, kinds, bounds, since=now - PERIOD, now=now)
