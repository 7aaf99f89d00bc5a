"""`bench sync`: leases in batches beside single-row leases, logins beside a backlog, and a budget shared by processes."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from steelyard.cli.benchmarks.callers import (
    Measure,
    Report,
    Sample,
    median_sample,
    ratio,
    run_callers,
    run_rounds,
)
from steelyard.cli.benchmarks.place import Place, describe_machine, open_place
from steelyard.cli.benchmarks.row_lock import open_engine
from steelyard.cli.benchmarks.sync_budget import BudgetPlan, measure_budget
from steelyard.cli.benchmarks.sync_drain import Drain, drain_side_by_side
from steelyard.cli.benchmarks.sync_logins import Logins
from steelyard.cli.benchmarks.sync_peer import SingleCalls, SingleRows
from steelyard.cli.benchmarks.sync_seed import SyncSeed, seed_sync, seed_sync_peer
from steelyard.runtime.database import Database
from steelyard.sync.run_targets import WRITTEN_AT_ONCE, WorkerPlan

INTERVAL = timedelta(minutes=5)
CONNECTIONS = (4, 16)
FEW_DUE = 1_000
LOGIN_USERS = 1_000
WORKERS = 2
"""Of ours, side by side: while one leases, the other writes."""
SLOTS = WorkerPlan("").slots * 3 // 4
"""Targets of one source that a worker has in flight at most, as shipped."""


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """How much to measure."""

    seconds: float = 3.0
    """Of each measurement of a round."""
    rounds: int = 5
    targets: int = 1_000_000
    """Due ones, besides those of the users who log in."""
    logins_per_s: float = 50.0
    budget: BudgetPlan = field(default_factory=BudgetPlan)


@dataclass(frozen=True, slots=True)
class _Pools:
    many: Database
    """Everything is due."""
    few: Database
    """As many targets, a thousand of them due."""
    peer: Mapping[int, AsyncEngine]
    """Engines of the peer, by how many connections they have."""
    calls: Database


async def measure_sync(
    plan: SyncPlan, *, database_url: str | None, report: Report
) -> dict[str, object]:
    """Run the benchmark and return its document.

    Raises:
        BenchmarkUnsound: A side ran out of targets, a lease did not hold, a login was refused.
    """
    async with open_place(database_url, report=report) as place:
        budget = await measure_budget(place, plan.budget, report=report)
        async with _open_pools(place, plan, report) as pools:
            logins = await run_rounds(
                _login_sides(pools, plan), rounds=plan.rounds, report=report, tell=_tell_login
            )
            drains = await run_rounds(
                _drain_sides(pools, plan), rounds=plan.rounds, report=report, tell=_tell_drain
            )
        return {
            "bench": "sync",
            **compare(drains, logins, budget),
            "plan": asdict(plan),
            "machine": await describe_machine(place),
        }


@asynccontextmanager
async def _open_pools(place: Place, plan: SyncPlan, report: Report) -> AsyncIterator[_Pools]:
    everybody = plan.targets + LOGIN_USERS
    many, few = await place.make_database(), await place.make_database()
    await seed_sync(few, SyncSeed(everybody, min(FEW_DUE, plan.targets)), report=report)
    await seed_sync(many, SyncSeed(everybody, plan.targets), report=report)
    await seed_sync_peer(many, report=report)
    async with AsyncExitStack() as closing:
        opened: list[Database] = []
        for url in (many.app_url, few.app_url, many.admin_url):
            pool = await Database.open(url)
            closing.push_async_callback(pool.close)
            opened.append(pool)
        engines = {size: open_engine(many.admin_url, pool_size=size) for size in CONNECTIONS}
        for engine in engines.values():
            closing.push_async_callback(engine.dispose)
        yield _Pools(opened[0], opened[1], engines, opened[2])


def _login_sides(pools: _Pools, plan: SyncPlan) -> dict[str, Measure]:
    users = [f"bench-{plan.targets + number}" for number in range(1, LOGIN_USERS + 1)]
    many = Logins(pools.many, SLOTS, users, plan.logins_per_s)
    few = Logins(pools.few, SLOTS, users, plan.logins_per_s)
    return {
        "login_many_due": lambda: many.run(plan.seconds),
        "login_few_due": lambda: few.run(plan.seconds),
    }


def _drain_sides(pools: _Pools, plan: SyncPlan) -> dict[str, Measure]:
    """Return our side at the slots a worker ships with and at full batches, and the peer's."""
    calls = SingleCalls(pools.calls, INTERVAL)

    def drain(slots: int) -> Measure:
        return lambda: drain_side_by_side(
            [Drain(pools.many, slots, INTERVAL) for _ in range(WORKERS)], plan.seconds
        )

    def single(connections: int) -> Measure:
        peer = SingleRows(pools.peer[connections], INTERVAL)
        return lambda: run_callers(peer.sync_one, callers=connections, seconds=plan.seconds)

    return {
        "steelyard": drain(SLOTS),
        "full_batches": drain(WRITTEN_AT_ONCE),
        **{f"single_{connections}": single(connections) for connections in CONNECTIONS},
        "single_call": lambda: run_callers(
            calls.sync_one, callers=max(CONNECTIONS), seconds=plan.seconds
        ),
    }


def compare(
    drains: Mapping[str, Sequence[Sample]],
    logins: Mapping[str, Sequence[Sample]],
    budget: Mapping[str, object],
) -> dict[str, object]:
    """Return the ratios of medians, what became of the budget, and each side's figures."""
    per_s = {name: median_sample(samples).per_s for name, samples in drains.items()}
    connections = max(CONNECTIONS, key=lambda number: per_s[f"single_{number}"])
    best = per_s[f"single_{connections}"]
    many, few = (median_sample(logins[f"login_{name}_due"]) for name in ("many", "few"))
    return {
        "targets_ratio_single": ratio(per_s["steelyard"], best),
        "login_lease_ratio": ratio(many.p99_ms, few.p99_ms),
        "budget_used": budget["used"],
        "budget_exceeded": budget["exceeded"],
        "targets_ratio_single_call": ratio(per_s["steelyard"], per_s["single_call"]),
        "full_batches_ratio_single": ratio(per_s["full_batches"], best),
        "full_batches_ratio_single_call": ratio(per_s["full_batches"], per_s["single_call"]),
        "targets_per_s": {name: round(value) for name, value in per_s.items()},
        "single_connections": connections,
        "login_lease": {
            name: {"p50_ms": round(one.p50_ms, 2), "p99_ms": round(one.p99_ms, 2), "done": one.done}
            for name, one in (("many_due", many), ("few_due", few))
        },
        "budget": dict(budget),
    }


def _tell_drain(sample: Sample) -> str:
    return f"{sample.per_s:,.0f} targets/s"


def _tell_login(sample: Sample) -> str:
    return f"p50 {sample.p50_ms:.2f} ms, p99 {sample.p99_ms:.2f} ms over {sample.done} logins"
