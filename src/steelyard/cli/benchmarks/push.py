"""`bench push`: from commit to screen, beside a bare python-socketio in the same rig.

Each side is a push process of its own that hears of changes on `balance:updates`: ours as one `serve` of several, the
peer as the reference's gateway. The process that commits real charges through the ledger and publishes them, the
Valkey and the thousand clients are the same. Sides are measured one after the other, never at once.
"""

import asyncio
import secrets
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import msgspec

from steelyard.access.model import Role
from steelyard.access.tokens import TokenOrder, TokenRules, issue_token
from steelyard.cli.benchmarks.callers import Report, ratio
from steelyard.cli.benchmarks.child import PUSH_PEER, PUSH_PRODUCT
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.place import BenchDatabase, Place, describe_machine, open_place
from steelyard.cli.benchmarks.processes import Child, Server, open_child, open_servers
from steelyard.cli.benchmarks.product import AUDIENCE, ISSUER
from steelyard.cli.benchmarks.push_clients import ClientsPlan
from steelyard.cli.benchmarks.push_commits import CommitsPlan, Run
from steelyard.cli.benchmarks.seed import Seeded, seed_ledger
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.runtime.valkey.program import ValkeyUnavailable, find_program
from steelyard.runtime.valkey.server import start_valkey

SIDES = {"steelyard": PUSH_PRODUCT, "socketio": PUSH_PEER}
WARM_S = 1.0
QUIET_DEADLINE_S = 20.0
LOOK_EVERY_S = 0.1
RUN_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class PushPlan:
    """How much to measure."""

    seconds: float = 10.0
    """Of the steady part of each measurement."""
    rounds: int = 3
    sockets: int = 1_000
    per_s: int = 1_000
    """Changes a second in the steady part."""
    burst: int = 20_000
    """Changes committed as fast as they can be, for the processor time of one event."""


@dataclass(frozen=True, slots=True)
class PushSample:
    """What one side did in one round."""

    p50_ms: float
    p99_ms: float
    """From the moment the commit was known to the client's `transaction_completed`, in the steady part."""
    lost: int
    reordered: int
    delivered: int
    """Events that clients received in the burst."""
    cpu_us: float
    """Processor time of the push process for one of them."""
    completed_per_s: float


@dataclass(frozen=True, slots=True)
class _Rig:
    plan: PushPlan
    place: Place
    database: BenchDatabase
    seeded: Seeded
    redis_url: str
    secret: str
    tokens: list[str]


async def measure_push(
    plan: PushPlan, *, database_url: str | None, report: Report
) -> dict[str, object]:
    """Run the benchmark and return its document.

    Raises:
        BenchmarkUnsound: A side refused a client or ended early.
    """
    samples: dict[str, list[PushSample]] = {name: [] for name in SIDES}
    async with open_place(database_url, report=report) as place:
        async with _open_rig(plan, place, report) as rig:
            for number in range(1, plan.rounds + 1):
                order = list(SIDES)
                secrets.SystemRandom().shuffle(order)
                for name in order:
                    sample = await _measure(name, rig)
                    samples[name].append(sample)
                    report(f"round {number}/{plan.rounds}: {name} {_tell(sample)}")
        return {
            "bench": "push",
            **compare(samples),
            "plan": asdict(plan),
            "machine": await describe_machine(place),
        }


@asynccontextmanager
async def _open_rig(plan: PushPlan, place: Place, report: Report) -> AsyncIterator[_Rig]:
    database = await place.make_database()
    seeded = await seed_ledger(database, accounts=plan.sockets, layers=10, report=report)
    secret = secrets.token_urlsafe(48)
    rules, now = TokenRules(issuer=ISSUER, audience=AUDIENCE), datetime.now(UTC)
    tokens = [
        issue_token(
            TokenOrder(DEFAULT_TENANT, UserId(f"bench-{account}"), Role.USER, timedelta(days=1)),
            rules=rules,
            key=secret.encode(),
            now=now,
        )
        for account in seeded.accounts
    ]
    report("starting a Valkey")
    async with _open_valkey(place.folder) as redis_url:
        yield _Rig(plan, place, database, seeded, redis_url, secret, tokens)


@asynccontextmanager
async def _open_valkey(folder: Path) -> AsyncIterator[str]:
    try:
        program = await asyncio.to_thread(find_program)
    except ValkeyUnavailable as error:
        raise BenchmarkUnsound(side="the bus", problem=str(error)) from error
    server = await start_valkey(folder, program)
    try:
        yield server.place.url
    finally:
        await server.stop()


async def _measure(name: str, rig: _Rig) -> PushSample:
    """Start a side, connect everybody, commit steadily, then in a burst, and count."""
    plan, folder = rig.plan, rig.place.folder
    seen, known = folder / "seen.bin", folder / "known.bin"
    async with AsyncExitStack() as closing:
        servers = await closing.enter_async_context(
            open_servers({name: _server_plan(name, rig)}, folder=folder)
        )
        server = servers[name]
        clients = await closing.enter_async_context(
            open_child("steelyard.cli.benchmarks.push_clients", _clients_plan(rig, server, seen))
        )
        commits = await closing.enter_async_context(
            open_child("steelyard.cli.benchmarks.push_commits", _commits_plan(rig, known))
        )
        for child in (clients, commits):
            await child.read_line(RUN_DEADLINE_S)
        warm, steady = int(WARM_S * plan.per_s), int(plan.seconds * plan.per_s)
        for count in (warm, steady):
            await commits.ask(Run(count, plan.per_s), RUN_DEADLINE_S)
        before = await _quiet(clients, warm + steady)
        cpu_before_s = await server.cpu_s()
        began_s = asyncio.get_running_loop().time()
        await commits.ask(Run(plan.burst), RUN_DEADLINE_S)
        after = await _quiet(clients, warm + steady + plan.burst)
        took_s = asyncio.get_running_loop().time() - began_s
        cpu_s = await server.cpu_s() - cpu_before_s
    delivered = after["events"] - before["events"]
    p50_ms, p99_ms, lost = _compare_moments(known, seen, first=warm, count=steady)
    return PushSample(
        p50_ms,
        p99_ms,
        lost,
        after["reordered"],
        delivered,
        cpu_s / max(1, delivered) * 1e6,
        plan.burst / took_s,
    )


def _server_plan(name: str, rig: _Rig) -> dict[str, object]:
    return {
        "side": SIDES[name],
        "database_url": rig.database.app_url,
        "redis_url": rig.redis_url,
        "secret": rig.secret,
    }


def _clients_plan(rig: _Rig, server: Server, file: Path) -> ClientsPlan:
    return ClientsPlan(server.port, rig.tokens, str(file))


def _commits_plan(rig: _Rig, file: Path) -> CommitsPlan:
    accounts = rig.seeded.accounts
    return CommitsPlan(rig.database.app_url, rig.redis_url, accounts[0], len(accounts), str(file))


async def _quiet(clients: Child, completed: int) -> dict[str, int]:
    """Ask the clients until all have what was committed, or nothing more comes."""
    seen: dict[str, int] = {}
    async with asyncio.timeout(RUN_DEADLINE_S):
        since_s, newest = 0.0, -1
        while True:
            seen = msgspec.json.decode(await clients.ask(None, RUN_DEADLINE_S))
            if seen["completed"] >= completed or since_s > QUIET_DEADLINE_S:
                return seen
            since_s = 0.0 if seen["events"] != newest else since_s + LOOK_EVERY_S
            newest = seen["events"]
            await asyncio.sleep(LOOK_EVERY_S)


def _compare_moments(
    known: Path, seen: Path, *, first: int, count: int
) -> tuple[float, float, int]:
    """Return p50 and p99 of the steady part in milliseconds, and how many of all changes no client saw."""
    commits, arrivals = _triples(known), _triples(seen)
    arrived = {(account, seq): at for account, seq, at in reversed(arrivals)}
    late_ms = sorted(
        (arrived[account, seq] - at) / 1e6
        for account, seq, at in commits[first : first + count]
        if (account, seq) in arrived
    )
    lost = sum((account, seq) not in arrived for account, seq, _ in commits)
    if not late_ms:
        raise BenchmarkUnsound(side="clients", problem="nothing arrived")
    return (
        late_ms[len(late_ms) // 2],
        late_ms[min(len(late_ms) - 1, len(late_ms) * 99 // 100)],
        lost,
    )


def _triples(file: Path) -> list[tuple[int, int, int]]:
    numbers = array("q")
    numbers.frombytes(file.read_bytes())
    return list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))


def _tell(sample: PushSample) -> str:
    return (
        f"p50 {sample.p50_ms:.2f} ms, p99 {sample.p99_ms:.2f} ms, {sample.cpu_us:.1f} µs an event, "
        f"lost {sample.lost}, reordered {sample.reordered}"
    )


def compare(samples: dict[str, list[PushSample]]) -> dict[str, object]:
    """Return the ratios of medians, what was lost over all rounds, and each side's medians."""
    ours, peers = samples["steelyard"], samples["socketio"]

    def middle(side: Sequence[PushSample], of: Callable[[PushSample], float]) -> float:
        return median(of(one) for one in side)

    return {
        "p99_ratio_socketio": ratio(middle(ours, _p99), middle(peers, _p99)),
        "cpu_ratio_socketio": ratio(middle(ours, _cpu), middle(peers, _cpu)),
        "lost": sum(one.lost for one in ours),
        "reordered": sum(one.reordered for one in ours),
        **{
            name: {
                "p50_ms": round(middle(side, lambda one: one.p50_ms), 2),
                "p99_ms": round(middle(side, _p99), 2),
                "cpu_us": round(middle(side, _cpu), 1),
                "burst_completed_per_s": round(middle(side, lambda one: one.completed_per_s)),
                "burst_delivered": round(middle(side, lambda one: one.delivered)),
                "lost": sum(one.lost for one in side),
                "reordered": sum(one.reordered for one in side),
            }
            for name, side in samples.items()
        },
    }


def _p99(sample: PushSample) -> float:
    return sample.p99_ms


def _cpu(sample: PushSample) -> float:
    return sample.cpu_us
