"""`bench http`: charges and balance reads over HTTP, one server process a side, many connections."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from steelyard.access.model import Role
from steelyard.access.tokens import TokenOrder, TokenRules, issue_token
from steelyard.cli.benchmarks.callers import (
    Measure,
    Report,
    Sample,
    median_sample,
    ratio,
    run_rounds,
)
from steelyard.cli.benchmarks.check_sums import (
    PEER_STANDING,
    PRODUCT_STANDING,
    check_charged,
    read_standing,
)
from steelyard.cli.benchmarks.child import PEER, PRODUCT
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.http_load import LoadPlan
from steelyard.cli.benchmarks.place import (
    BenchDatabase,
    Place,
    describe_machine,
    open_place,
)
from steelyard.cli.benchmarks.processes import Server, open_servers, run_load_process
from steelyard.cli.benchmarks.product import AUDIENCE, ISSUER
from steelyard.cli.benchmarks.seed import Seeded, seed_ledger, seed_peer
from steelyard.core.ids import DEFAULT_TENANT, UserId

AMOUNT = 1
BODY = '{"amount":1,"currency":"GBP","reference_id":"bench"}'
POOLS = (16, 64)
CHARGES, BALANCE = "/api/accounts/{}/charges", "/api/accounts/{}/balance"
NULL_CHARGES, NULL_BALANCE = "/bench/null/{}/charges", "/bench/null/{}/balance"
WARM_SHARE, WARM_S_MAX = 0.25, 1.0
READY_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class HttpPlan:
    """How much to measure."""

    seconds: float = 3.0
    """Of each measurement."""
    rounds: int = 5
    connections: int = 64
    accounts: int = 100_000
    history: int = 500_000
    """Changes there are before, over all accounts."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that is measured: which server is asked what."""

    server: str
    method: str
    path: str
    expected: int

    @property
    def charges(self) -> bool:
        """Whether it moves money."""
        return self.path == CHARGES


QUESTIONS: Mapping[str, Question] = {
    "charge": Question("steelyard", "POST", CHARGES, 201),
    "null_charge": Question("steelyard", "POST", NULL_CHARGES, 201),
    "read": Question("steelyard", "GET", BALANCE, 200),
    "null_read": Question("steelyard", "GET", NULL_BALANCE, 200),
    **{f"row_lock_{size}": Question(f"row_lock_{size}", "POST", CHARGES, 201) for size in POOLS},
    "null_fastapi": Question(f"row_lock_{POOLS[0]}", "POST", NULL_CHARGES, 201),
}


@dataclass(frozen=True, slots=True)
class Rig:
    """What every measurement of a run shares."""

    plan: HttpPlan
    servers: Mapping[str, Server]
    token: str
    accounts: range
    answered: Counter[str]

    def load_of(self, question: Question, *, warm_s: float, seconds: float) -> LoadPlan:
        """Return the load that asks a question."""
        return LoadPlan(
            port=self.servers[question.server].port,
            method=question.method,
            path=question.path,
            token=self.token,
            first_account=self.accounts[0],
            accounts=len(self.accounts),
            connections=self.plan.connections,
            warm_s=warm_s,
            seconds=seconds,
            body=BODY if question.method == "POST" else "",
            expected=question.expected,
        )

    async def ask(self, name: str, *, warm_s: float, seconds: float) -> Sample:
        """Ask one question for a while."""
        question = QUESTIONS[name]
        server = self.servers[question.server]
        result = await run_load_process(
            self.load_of(question, warm_s=warm_s, seconds=seconds), server
        )
        server.forget_log()
        self.answered[name] += result.answered
        return Sample(result.per_s, result.p50_ms, result.p99_ms, result.done)


async def measure_http(
    plan: HttpPlan, *, database_url: str | None, report: Report
) -> dict[str, object]:
    """Run the benchmark and return its document.

    Raises:
        BenchmarkUnsound: A side lost or doubled a charge, or answered anything unexpected.
    """
    async with open_place(database_url, report=report) as place:
        database = await place.make_database()
        layers = max(1, -(-plan.history // plan.accounts))
        seeded = await seed_ledger(database, accounts=plan.accounts, layers=layers, report=report)
        report("seeding the peer's tables")
        await seed_peer(database)
        before = [await read_standing(database, q) for q in (PRODUCT_STANDING, PEER_STANDING)]
        report("starting the servers")
        async with _open_rig(plan, place, database, seeded) as rig:
            sides: dict[str, Measure] = {name: _measure(rig, name) for name in QUESTIONS}
            samples = await run_rounds(sides, rounds=plan.rounds, report=report)
        after = [await read_standing(database, q) for q in (PRODUCT_STANDING, PEER_STANDING)]
        ours = rig.answered["charge"]
        peers = sum(rig.answered[f"row_lock_{size}"] for size in POOLS)
        for side, count, then, now in (
            ("steelyard", ours, before[0], after[0]),
            ("row_lock", peers, before[1], after[1]),
        ):
            check_charged(side, then, now, charged=count, amount=AMOUNT)
        return {
            "bench": "http",
            **compare(samples),
            "charged": {"steelyard": ours, "peers": peers},
            "plan": asdict(plan),
            "machine": await describe_machine(place),
        }


@asynccontextmanager
async def _open_rig(
    plan: HttpPlan, place: Place, database: BenchDatabase, seeded: Seeded
) -> AsyncIterator[Rig]:
    secret = secrets.token_urlsafe(48)
    wanted: dict[str, dict[str, object]] = {
        "steelyard": {"side": PRODUCT, "database_url": database.app_url},
        **{
            f"row_lock_{size}": {
                "side": PEER,
                "database_url": database.admin_url,
                "pool_size": size,
            }
            for size in POOLS
        },
    }
    plans = {name: {**one, "secret": secret} for name, one in wanted.items()}
    async with open_servers(plans, folder=place.folder) as servers:
        await _wait_until_ready(servers)
        yield Rig(plan, servers, _token(secret), seeded.accounts, Counter())


def _token(secret: str) -> str:
    order = TokenOrder(DEFAULT_TENANT, UserId("bench"), Role.SERVICE, timedelta(days=1))
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE)
    return issue_token(order, rules=rules, key=secret.encode(), now=datetime.now(UTC))


async def _wait_until_ready(servers: Mapping[str, Server]) -> None:
    """Wait until each server answers anything over HTTP."""
    for server in servers.values():
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(
                    b"GET /bench/ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"
                )
                answer = await reader.read()
                writer.close()
        except TimeoutError:
            answer = b""
        if not answer.startswith(b"HTTP/1.1 "):
            raise BenchmarkUnsound(side=server.name, problem="its server does not answer")


def _measure(rig: Rig, name: str) -> Measure:
    async def measure() -> Sample:
        warm_s = min(rig.plan.seconds * WARM_SHARE, WARM_S_MAX)
        return await rig.ask(name, warm_s=warm_s, seconds=rig.plan.seconds)

    return measure


def compare(samples: Mapping[str, Sequence[Sample]]) -> dict[str, object]:
    """Return the four ratios, and each side's medians."""
    medians = {name: median_sample(of_side) for name, of_side in samples.items()}
    pool = max(POOLS, key=lambda size: medians[f"row_lock_{size}"].per_s)
    rates = {name: one.per_s for name, one in medians.items()}
    return {
        "charge_ratio_row_lock": ratio(rates["charge"], rates[f"row_lock_{pool}"]),
        "null_ratio_fastapi": ratio(rates["null_charge"], rates["null_fastapi"]),
        "charge_share_of_null": ratio(rates["charge"], rates["null_charge"]),
        "read_share_of_null": ratio(rates["read"], rates["null_read"]),
        "row_lock_pool": pool,
        **{
            name: {
                "per_s": round(one.per_s),
                "p50_ms": round(one.p50_ms, 2),
                "p99_ms": round(one.p99_ms, 2),
            }
            for name, one in medians.items()
        },
    }
