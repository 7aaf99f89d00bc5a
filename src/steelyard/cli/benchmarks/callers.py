"""Callers that repeat one act for a while, and what they saw."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from statistics import median

from steelyard.cli.benchmarks.errors import BenchmarkUnsound

Act = Callable[[], Awaitable[None]]
Measure = Callable[[], Awaitable["Sample"]]
Report = Callable[[str], None]

PICKS = 1 << 16
_ODD = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: how many acts a second, and how long one took, in milliseconds."""

    per_s: float
    p50_ms: float
    p99_ms: float
    done: int


def sample_of(latencies_s: list[float], elapsed_s: float) -> Sample:
    """Return the sample of acts that took so long each, all within `elapsed_s`."""
    if not latencies_s:
        return Sample(0.0, 0.0, 0.0, 0)
    ordered = sorted(latencies_s)
    at_99 = min(len(ordered) - 1, len(ordered) * 99 // 100)
    return Sample(
        len(ordered) / elapsed_s,
        ordered[len(ordered) // 2] * 1000,
        ordered[at_99] * 1000,
        len(ordered),
    )


async def run_callers(act: Act, *, callers: int, seconds: float) -> Sample:
    """Let `callers` repeat `act` for `seconds`, each waiting for its answer before it goes on.

    What an act raises ends all of them and is raised.
    """
    latencies_s: list[float] = []
    began_s = time.perf_counter()
    ends_s = began_s + seconds

    async def call() -> None:
        before_s = time.perf_counter()
        while before_s < ends_s:
            await act()
            after_s = time.perf_counter()
            latencies_s.append(after_s - before_s)
            before_s = after_s

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the first says it; the others end because of it
    return sample_of(latencies_s, time.perf_counter() - began_s)


class Picks:
    """Accounts drawn at random beforehand, so that drawing costs no side anything."""

    def __init__(self, accounts: Sequence[int]) -> None:
        drawn = secrets.SystemRandom().choices(accounts, k=PICKS) if len(accounts) > 1 else accounts
        self.next: Callable[[], int] = cycle(drawn).__next__


class Keys:
    """Idempotency keys, each once, in no order: as clients make them."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._number: Callable[[], int] = count(1).__next__

    def next(self) -> str:
        """Return a new key."""
        return f"{self._number() * _ODD & _MASK:016x}-{self._prefix}"


def tell_rate(sample: Sample) -> str:
    """Return how a measurement of many acts is told."""
    return f"{sample.per_s:,.0f}/s, p99 {sample.p99_ms:.2f} ms"


async def run_rounds(
    sides: Mapping[str, Measure],
    *,
    rounds: int,
    report: Report,
    tell: Callable[[Sample], str] = tell_rate,
) -> dict[str, list[Sample]]:
    """Measure every side once a round, in an order drawn anew each round.

    Raises:
        BenchmarkUnsound: A side did nothing in its time.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        order = list(sides)
        secrets.SystemRandom().shuffle(order)
        for name in order:
            sample = await sides[name]()
            if sample.done == 0:
                raise BenchmarkUnsound(
                    side=name, problem="nothing was done in the time; measure for longer"
                )
            samples[name].append(sample)
            report(f"round {number}/{rounds}: {name} {tell(sample)}")
    return samples


def median_sample(samples: Sequence[Sample]) -> Sample:
    """Return the medians of each figure; `done` is the sum."""
    return Sample(
        median(one.per_s for one in samples),
        median(one.p50_ms for one in samples),
        median(one.p99_ms for one in samples),
        sum(one.done for one in samples),
    )


def ratio(one: float, other: float) -> float:
    """Return one over the other, to two digits after the point; 0 where there is nothing to compare."""
    return round(one / other, 2) if other else 0.0
