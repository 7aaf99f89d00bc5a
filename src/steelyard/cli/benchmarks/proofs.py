"""`bench verify`: what a proof of every balance costs beside a plain sum.

Two databases with the same accounts: one with all postings, one with a tenth of them. The full proofs run on
the first; the incremental one runs on both after the same changes, to show that history does not matter.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

from steelyard.cli.benchmarks.callers import Report, Sample, ratio, run_rounds
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.place import BenchDatabase, Place, describe_machine, open_place
from steelyard.cli.benchmarks.seed import DEADLINE_S, post_charges, seed_ledger, settle_tables
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.reconcile.incremental import verify_incremental
from steelyard.reconcile.model import Report as Proof
from steelyard.reconcile.store import screen
from steelyard.reconcile.store.snapshot import MEMORY_MB, open_snapshot
from steelyard.reconcile.verify import Depth, Scope, Screen, verify_tenant
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.database import Connection, Database, connect

LAYERS = 10
DIRTY_SHARE, DIRTY_MAX = 10, 10_000
# The outer count reads each sum: of a column that nobody reads the planner would not compute any.
SUM = "SELECT count(total) FROM (SELECT account_id, sum(amount) AS total FROM steelyard.change GROUP BY account_id) s"

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class VerifyPlan:
    """How much to prove. Accounts are a tenth of the postings."""

    postings: int = 1_000_000
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class _Books:
    """One database with a history."""

    database: BenchDatabase
    product: Database
    admin: Connection
    accounts: range

    @property
    def scope(self) -> Scope:
        return Scope(self.product, DEFAULT_TENANT)


async def measure_verify(
    plan: VerifyPlan, *, database_url: str | None, report: Report
) -> dict[str, object]:
    """Run the benchmark and return its document.

    Raises:
        BenchmarkUnsound: A proof found a discrepancy, or did not look at every account.
    """
    accounts = max(1, plan.postings // LAYERS)
    async with open_place(database_url, report=report) as place:
        async with (
            _open_books(place, accounts, LAYERS, report) as full,
            _open_books(place, accounts, 1, report) as small,
        ):
            timed = await run_rounds(
                _full_sides(full), rounds=plan.rounds, report=report, tell=_tell
            )
            dirty = list(full.accounts[: max(1, min(accounts // DIRTY_SHARE, DIRTY_MAX))])
            for one in (full, small):
                report("proving what there is, for the checkpoints")
                _check("incremental", await verify_incremental(one.scope, SystemClock()), accounts)
                await settle_tables(one.database)
            sides = {
                "incremental": _incremental(full, dirty),
                "incremental_tenth": _incremental(small, dirty),
            }
            timed |= await run_rounds(sides, rounds=plan.rounds, report=report, tell=_tell)
        return {
            "bench": "verify",
            **compare(timed),
            "dirty_accounts": len(dirty),
            "accounts": accounts,
            "plan": asdict(plan),
            "machine": await describe_machine(place),
        }


@asynccontextmanager
async def _open_books(
    place: Place, accounts: int, layers: int, report: Report
) -> AsyncIterator[_Books]:
    database = await place.make_database()
    seeded = await seed_ledger(database, accounts=accounts, layers=layers, report=report)
    product = await Database.open(database.app_url)
    admin = await connect(database.admin_url)
    try:
        yield _Books(database, product, admin, seeded.accounts)
    finally:
        await admin.close(timeout=30)
        await product.close()


def _full_sides(books: _Books) -> dict[str, Callable[[], Awaitable[Sample]]]:
    """Return the plain sum, each pass of a proof alone, and the whole command at both depths."""

    async def prove(depth: Depth) -> None:
        _check(depth, await verify_tenant(books.scope, depth=depth), len(books.accounts))

    async def pass_over(name: str, run: Screen) -> None:
        async with open_snapshot(books.product, DEFAULT_TENANT) as uow:
            suspects = await run(uow)
        if suspects:
            raise BenchmarkUnsound(side=name, problem=f"{len(suspects)} accounts are suspected")

    passes: Mapping[str, Screen] = {
        "pass_arithmetic": screen.screen_arithmetic,
        "pass_requests": screen.screen_requests,
        "pass_heads": screen.screen_heads,
        "pass_checkpoints": screen.screen_checkpoints,
        "pass_chain": screen.screen_chain,
    }
    acts: dict[str, Act] = {
        "sum": lambda: _sum_up(books.admin),
        "command": lambda: prove(Depth.ARITHMETIC),
        "command_chain": lambda: prove(Depth.CHAIN),
        **{name: partial(pass_over, name, run) for name, run in passes.items()},
    }
    return {name: _timed(act) for name, act in acts.items()}


async def _sum_up(admin: Connection) -> None:
    """The peer: one plain sum by account, with the memory that a proof has and no wall to check."""
    await admin.execute(f"SET work_mem = '{MEMORY_MB}MB'")
    await admin.fetch(SUM, timeout=DEADLINE_S)  # fetchval would forbid a parallel plan


def _incremental(books: _Books, dirty: Sequence[int]) -> Callable[[], Awaitable[Sample]]:
    async def measure() -> Sample:
        await post_charges(books.database, dirty)

        async def prove() -> None:
            proof = await verify_incremental(books.scope, SystemClock())
            _check("incremental", proof, len(books.accounts))

        return await _timed(prove)()

    return measure


def _timed(act: Act) -> Callable[[], Awaitable[Sample]]:
    async def measure() -> Sample:
        began_s = time.perf_counter()
        await act()
        took_s = time.perf_counter() - began_s
        return Sample(1 / took_s, took_s * 1000, took_s * 1000, 1)

    return measure


def _check(side: str, proof: Proof, accounts: int) -> None:
    if not proof.is_clean:
        raise BenchmarkUnsound(side=side, problem=f"it found: {proof.errors[0].sentence}")
    if proof.accounts < accounts:
        raise BenchmarkUnsound(
            side=side, problem=f"it looked at {proof.accounts} of {accounts} accounts"
        )


def _tell(sample: Sample) -> str:
    return f"{sample.p50_ms / 1000:.3f} s"


def compare(timed: Mapping[str, Sequence[Sample]]) -> dict[str, object]:
    """Return the ratios and the median times, in seconds."""
    took_s = {name: median(one.p50_ms for one in samples) / 1000 for name, samples in timed.items()}
    full_s = took_s["pass_arithmetic"]
    # The pass over the chain proves numbers and heads as well.
    chain_s = took_s["pass_chain"] + took_s["pass_checkpoints"]
    return {
        "full_ratio_sum": ratio(full_s, took_s["sum"]),
        "chain_ratio_sum": ratio(chain_s, took_s["sum"]),
        "incremental_growth": ratio(took_s["incremental"], took_s["incremental_tenth"]),
        "command_ratio_sum": ratio(took_s["command"], took_s["sum"]),
        "command_chain_ratio_sum": ratio(took_s["command_chain"], took_s["sum"]),
        **{f"{name}_s": round(seconds, 4) for name, seconds in took_s.items()},
    }
