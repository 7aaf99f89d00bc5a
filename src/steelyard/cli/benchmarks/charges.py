"""`bench charges`: callers in one process charge accounts, all over and on one hot account."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256

from steelyard.balances.store import post_batch
from steelyard.cli.benchmarks.callers import (
    Keys,
    Measure,
    Picks,
    Report,
    Sample,
    median_sample,
    ratio,
    run_callers,
    run_rounds,
)
from steelyard.cli.benchmarks.check_sums import (
    PEER_STANDING,
    PRODUCT_STANDING,
    check_charged,
    read_standing,
)
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.place import BenchDatabase, describe_machine, open_place
from steelyard.cli.benchmarks.product import open_product
from steelyard.cli.benchmarks.row_lock import RowLock, open_engine
from steelyard.cli.benchmarks.seed import post_charges, seed_ledger, seed_peer
from steelyard.core.ids import DEFAULT_TENANT, AccountId
from steelyard.ledger.model import Kind, Order
from steelyard.ledger.outcomes import columns_of
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.database import Database

AMOUNT = 1
POOLS = (16, 64)
FUNCTION_POOL = 16
WARM_SHARE, WARM_S_MAX = 0.25, 0.5

Charge = Callable[[int, str], Awaitable[object]]
Side = Callable[[BenchDatabase], AbstractAsyncContextManager[Charge]]


@dataclass(frozen=True, slots=True)
class ChargesPlan:
    """How much to measure."""

    seconds: float = 3.0
    """Of each measurement."""
    rounds: int = 5
    callers: int = 64
    accounts: int = 100_000
    history: int = 500_000
    """Changes there are before, over all accounts but the hot one."""
    hot_changes: int = 500_000
    """Changes the hot account has before."""


@asynccontextmanager
async def _product(database: BenchDatabase) -> AsyncIterator[Charge]:
    heard = 0

    def hear(event: BalanceEvent) -> None:
        nonlocal heard
        heard += event.seq is not None

    charged = 0
    async with open_product(database.app_url) as services:
        services.bus.subscribe(hear)
        ledger = services.ledger(DEFAULT_TENANT)

        async def charge(account: int, key: str) -> None:
            nonlocal charged
            await ledger.charge(AccountId(account), AMOUNT, key=key)
            charged += 1

        yield charge
    if heard < charged:
        raise BenchmarkUnsound(side="steelyard", problem=f"published {heard} of {charged} charges")


def _row_lock(pool_size: int) -> Side:
    @asynccontextmanager
    async def opened(database: BenchDatabase) -> AsyncIterator[Charge]:
        engine = open_engine(database.admin_url, pool_size=pool_size)
        peer = RowLock(engine)

        async def charge(account: int, key: str) -> None:
            if (await peer.charge(account, AMOUNT, key)).replayed:
                raise BenchmarkUnsound(
                    side="row_lock", problem="a new key was answered as a repeat"
                )

        try:
            yield charge
        finally:
            await engine.dispose()

    return opened


@asynccontextmanager
async def _function(database: BenchDatabase) -> AsyncIterator[Charge]:
    pool = await Database.open(database.admin_url, pool_size=FUNCTION_POOL)

    async def charge(account: int, key: str) -> None:
        body_hash = sha256(f"{account}|{AMOUNT}".encode()).digest()
        async with pool.connection() as connection:
            row = await connection.fetchrow(
                "SELECT * FROM peer.charge($1, $2, $3, $4, $5)",
                account,
                AMOUNT,
                key,
                body_hash,
                datetime.now(UTC),
            )
        if row is None or row["r_outcome"] != "posted":
            raise BenchmarkUnsound(side="function", problem=f"a charge was not posted: {row}")

    try:
        yield charge
    finally:
        await pool.close()


@asynccontextmanager
async def _post_batch_of_one(database: BenchDatabase) -> AsyncIterator[Charge]:
    pool = await Database.open(database.app_url, pool_size=FUNCTION_POOL)

    async def charge(account: int, key: str) -> None:
        order = Order(DEFAULT_TENANT, Kind.CHARGE, AccountId(account), AMOUNT, key)
        async with pool.connection() as connection:
            row = await post_batch(connection, datetime.now(UTC), columns_of([order], [None]))
        if row["r_outcome"] != ["posted"]:
            raise BenchmarkUnsound(side="batch_of_one", problem=f"a charge was {row['r_outcome']}")

    try:
        yield charge
    finally:
        await pool.close()


SIDES: Mapping[str, Side] = {
    "steelyard": _product,
    **{f"row_lock_{size}": _row_lock(size) for size in POOLS},
    "function": _function,
    "batch_of_one": _post_batch_of_one,
}
ON_OUR_TABLES = ("steelyard", "batch_of_one")


async def measure_charges(
    plan: ChargesPlan, *, database_url: str | None, report: Report
) -> dict[str, object]:
    """Run the benchmark and return its document.

    Raises:
        BenchmarkUnsound: A side lost or doubled a charge.
    """
    async with open_place(database_url, report=report) as place:
        database = await place.make_database()
        layers = max(1, -(-plan.history // plan.accounts))
        seeded = await seed_ledger(
            database, accounts=plan.accounts + 1, layers=layers, report=report
        )
        report(f"seeding {plan.hot_changes:,} changes of one account")
        hot = seeded.accounts[-1]
        await post_charges(database, [hot] * plan.hot_changes)
        report("seeding the peer's tables")
        await seed_peer(database)
        before = [await read_standing(database, q) for q in (PRODUCT_STANDING, PEER_STANDING)]
        charged: Counter[str] = Counter()
        loads = {}
        for load, accounts in (("uniform", seeded.accounts[:-1]), ("hot", [hot])):
            report(f"measuring {load}")
            sides = {
                name: _measure(plan, database, name, accounts=accounts, charged=charged)
                for name in SIDES
            }
            loads[load] = await run_rounds(sides, rounds=plan.rounds, report=report)
        after = [await read_standing(database, q) for q in (PRODUCT_STANDING, PEER_STANDING)]
        ours = sum(charged[name] for name in ON_OUR_TABLES)
        for side, count, then, now in (
            ("steelyard", ours, before[0], after[0]),
            ("row_lock", charged.total() - ours, before[1], after[1]),
        ):
            check_charged(side, then, now, charged=count, amount=AMOUNT)
        return {
            "bench": "charges",
            **{load: compare(samples) for load, samples in loads.items()},
            "charged": {"steelyard": ours, "peers": charged.total() - ours},
            "plan": asdict(plan),
            "machine": await describe_machine(place),
        }


def _measure(
    plan: ChargesPlan,
    database: BenchDatabase,
    name: str,
    *,
    accounts: Sequence[int],
    charged: Counter[str],
) -> Measure:
    async def measure() -> Sample:
        picks, keys = Picks(accounts), Keys()
        async with SIDES[name](database) as charge:

            async def act() -> None:
                await charge(picks.next(), keys.next())

            warm_s = min(plan.seconds * WARM_SHARE, WARM_S_MAX)
            warm = await run_callers(act, callers=plan.callers, seconds=warm_s)
            sample = await run_callers(act, callers=plan.callers, seconds=plan.seconds)
        charged[name] += warm.done + sample.done
        return sample

    return measure


def compare(samples: Mapping[str, Sequence[Sample]]) -> dict[str, object]:
    """Return what one load shows: medians of each side, and ours over the better of the peer's pools."""
    medians = {name: median_sample(of_side) for name, of_side in samples.items()}
    pool = max(POOLS, key=lambda size: medians[f"row_lock_{size}"].per_s)
    ours, peer = medians["steelyard"], medians[f"row_lock_{pool}"]
    return {
        "steelyard": round(ours.per_s),
        "row_lock": round(peer.per_s),
        "ratio": ratio(ours.per_s, peer.per_s),
        "p50_ms": round(ours.p50_ms, 2),
        "p99_ms": round(ours.p99_ms, 2),
        "row_lock_p50_ms": round(peer.p50_ms, 2),
        "row_lock_p99_ms": round(peer.p99_ms, 2),
        "p99_ratio": ratio(ours.p99_ms, peer.p99_ms),
        "row_lock_pool": pool,
        **{f"row_lock_{size}": round(medians[f"row_lock_{size}"].per_s) for size in POOLS},
        "function": round(medians["function"].per_s),
        "function_ratio": ratio(ours.per_s, medians["function"].per_s),
        "function_p99_ms": round(medians["function"].p99_ms, 2),
        "batch_of_one": round(medians["batch_of_one"].per_s),
        "batch_of_one_p99_ms": round(medians["batch_of_one"].p99_ms, 2),
    }
