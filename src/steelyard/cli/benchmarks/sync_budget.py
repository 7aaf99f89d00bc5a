"""The budget of a source in `bench sync`: four worker processes, one simulated core bank, one bucket for all.

Two records say what was sent. The database keeps when each run's lease was granted; the bank notes when each request
came. A bucket of `burst` filled at `rate` allows at most `burst + rate * t` requests in any time t. Grants are held to
that exactly, over every window there is. Requests come later than their grants by what committing, loading accounts and
the network take, so a window of arrivals may hold those that were granted up to the longest such delay before it began:
they are held to `burst + rate * (t + delay)`, with the longest delay that was measured, request by request.
"""

import asyncio
import time
from array import array
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from steelyard.cli.benchmarks.callers import Report
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.place import BenchDatabase, Place
from steelyard.cli.benchmarks.processes import Child, open_child
from steelyard.cli.benchmarks.sync_bank import BankPlan, BankSaw
from steelyard.cli.benchmarks.sync_seed import FIRST_NUMBER, SyncSeed, seed_sync
from steelyard.cli.benchmarks.sync_worker import WorkerPlan
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.providers.contract import Limits
from steelyard.runtime.database import connect

START_DEADLINE_S = 60.0
WARM_S_MIN, WARM_S_MAX = 1.0, 4.0
"""Until every worker works and what the bucket held at first is spent; in short runs it may not be."""
ROUNDING = 1e-3
"""Of a request: times are kept to the microsecond."""

_GRANTS = """
    SELECT (extract(epoch FROM r.started_at) * 1000000)::bigint AS at, m.number::bigint AS number, r.attempts
      FROM steelyard.run r
      JOIN steelyard.mirrored_account m ON m.tenant_id = r.tenant_id AND m.user_id = r.subject
     WHERE r.tenant_id = $1 AND r.started_at >= to_timestamp($2::float8) ORDER BY r.started_at, r.id
"""

Moment = tuple[int, int]
"""When (UTC, microseconds), and for which account."""


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """How long, and how much the bank allows: the burst is one second's worth, as shipped."""

    seconds: float = 20.0
    requests_per_s: float = 100.0
    in_flight: int = 50
    workers: int = 4

    @property
    def limits(self) -> Limits:
        """The bank's limits."""
        return Limits(self.requests_per_s, self.in_flight)

    @property
    def burst(self) -> float:
        """What the bucket holds."""
        return max(1.0, self.requests_per_s)


async def measure_budget(place: Place, plan: BudgetPlan, *, report: Report) -> dict[str, object]:
    """Let four workers use up a budget for a while and compare what was granted and what came.

    Raises:
        BenchmarkUnsound: A worker did not start, the bank saw other requests than it noted, or one failed.
    """
    database = await place.make_database()
    targets = int(plan.requests_per_s * (plan.seconds + 30))
    await seed_sync(database, SyncSeed(targets, targets, plan.limits), report=report)
    file = place.folder / "arrivals.bin"
    report(f"{plan.workers} workers, {plan.requests_per_s:g} requests a second, {plan.seconds:g} s")
    began_s = time.time()
    async with AsyncExitStack() as closing:
        bank_plan = BankPlan(FIRST_NUMBER, targets, str(file))
        bank = await closing.enter_async_context(
            open_child("steelyard.cli.benchmarks.sync_bank", bank_plan)
        )
        port = int(await bank.read_line(START_DEADLINE_S))
        async with AsyncExitStack() as working:
            await _start_workers(working, database, plan, f"http://127.0.0.1:{port}")
            await asyncio.sleep(min(WARM_S_MAX, max(WARM_S_MIN, plan.seconds)))
            first_us = time.time_ns() // 1_000
            await asyncio.sleep(plan.seconds)
            last_us = time.time_ns() // 1_000
        saw = msgspec.json.decode(await bank.ask(None, START_DEADLINE_S), type=BankSaw)
    arrivals = read_arrivals(file)
    if len(arrivals) != saw.requests:
        problem = f"it noted {len(arrivals)} of {saw.requests} requests"
        raise BenchmarkUnsound(side="the bank", problem=problem)
    grants = await _load_grants(database, began_s)
    return compare_budget(plan, grants, arrivals, saw, window_us=(first_us, last_us))


async def _start_workers(
    working: AsyncExitStack, database: BenchDatabase, plan: BudgetPlan, url: str
) -> None:
    made = WorkerPlan(database.app_url, url, plan.requests_per_s, plan.in_flight)
    children: list[Child] = [
        await working.enter_async_context(open_child("steelyard.cli.benchmarks.sync_worker", made))
        for _ in range(plan.workers)
    ]
    for child in children:
        await child.read_line(START_DEADLINE_S)


def read_arrivals(file: Path) -> list[Moment]:
    """Return what the bank noted, in the order it came."""
    numbers = array("q")
    numbers.frombytes(file.read_bytes())
    return list(zip(numbers[::2], numbers[1::2], strict=True))


async def _load_grants(database: BenchDatabase, since_s: float) -> list[Moment]:
    connection = await connect(database.admin_url)
    try:
        rows = await connection.fetch(_GRANTS, DEFAULT_TENANT, since_s)
    finally:
        await connection.close(timeout=5)
    if again := sum(row["attempts"] != 1 for row in rows):
        raise BenchmarkUnsound(side="steelyard", problem=f"{again} syncs needed another attempt")
    return [(row["at"], row["number"]) for row in rows]


def compare_budget(
    plan: BudgetPlan,
    grants: Sequence[Moment],
    arrivals: Sequence[Moment],
    saw: BankSaw,
    *,
    window_us: tuple[int, int],
) -> dict[str, object]:
    """Return how much of the rate was used between two moments, and how often more was asked than allowed."""
    first_us, last_us = window_us
    came = sum(first_us <= at < last_us for at, _ in arrivals)
    delays_us, ungranted = delays_of(grants, arrivals)
    longest_us = max(delays_us, default=0)
    over_grants = overruns([at for at, _ in grants], plan.requests_per_s, plan.burst)
    bunched = plan.burst + plan.requests_per_s * longest_us / 1e6
    over_arrivals = overruns([at for at, _ in arrivals], plan.requests_per_s, bunched)
    at_face = overruns([at for at, _ in arrivals], plan.requests_per_s, plan.burst)
    too_many_at_once = max(0, saw.in_flight_max - plan.in_flight)
    middle = sorted(delays_us)[len(delays_us) // 2] if delays_us else 0
    return {
        "used": round(came / (plan.requests_per_s * (last_us - first_us) / 1e6), 4),
        "exceeded": over_grants + over_arrivals + ungranted + too_many_at_once,
        "exceeded_grants": over_grants,
        "exceeded_arrivals": over_arrivals,
        "exceeded_arrivals_at_face": at_face,
        "arrivals_ungranted": ungranted,
        "grants": len(grants),
        "arrivals": len(arrivals),
        "delay_p50_ms": round(middle / 1000, 2),
        "delay_max_ms": round(longest_us / 1000, 2),
        "in_flight_max": saw.in_flight_max,
        "in_flight_max_of_one_user": saw.in_flight_max_of_one,
    }


def overruns(times_us: Sequence[int], rate_per_s: float, burst: float) -> int:
    """Return how many requests end some window that holds more than `burst + rate * window` of them.

    The bucket that never holds less than it must: what is missing in it is the most by which any window that ends
    there is over.
    """
    count, level, before_us = 0, burst, times_us[0] if times_us else 0
    for at_us in times_us:
        level = min(burst, level + rate_per_s * (at_us - before_us) / 1e6) - 1
        before_us = at_us
        count += level < -ROUNDING
    return count


def delays_of(grants: Sequence[Moment], arrivals: Sequence[Moment]) -> tuple[list[int], int]:
    """Return how long each request came after its grant, and how many came without one.

    The first request about an account answers the first grant for it, and so on.
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    for at_us, number in reversed(grants):
        waiting[number].append(at_us)
    delays: list[int] = []
    ungranted = 0
    for at_us, number in arrivals:
        if waiting[number] and waiting[number][-1] <= at_us:
            delays.append(at_us - waiting[number].pop())
        else:
            ungranted += 1
    return delays, ungranted
