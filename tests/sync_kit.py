"""A bank to sync with, and a world in which users have accounts there."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from steelyard.core.clock import Clock
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.core.money import Currency, Money
from steelyard.mirror.apply_readings import PublishReadings
from steelyard.mirror.model import NewMirroredAccount
from steelyard.providers.contract import (
    API_VERSION,
    AccountIdentity,
    AccountProblem,
    AccountReading,
    AmountEncoding,
    AmountSign,
    BalanceKind,
    BalanceReading,
    BalanceTime,
    Capability,
    Limits,
    Manifest,
    ReportedBalance,
    Target,
)
from steelyard.providers.errors import ErrorScope, ProviderError, ProviderNotFound
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Database
from steelyard.sync.enroll import Enrollment, allow_requests, enroll_accounts
from steelyard.sync.lease_targets import Taken, Taker, lease_lane
from steelyard.sync.model import Grant, Lane
from steelyard.sync.run_targets import SyncWorker, WorkerPlan
from steelyard.sync.status import load_status
from steelyard.sync.sync_with_timeout import LoginSync
from steelyard.sync.wait_for_runs import RunWaiter
from steelyard.sync.write_results import ResultWriter
from tests.world import World

BANK = "fakebank"
LIMITS = Limits(requests_per_s=1000.0, in_flight=100)
INTERVAL = timedelta(minutes=5)


@dataclass
class FakeBank:
    """Keeps true balances by account number; each number is one request."""

    clock: Clock
    money: dict[str, int] = field(default_factory=dict)
    latency_s: float = 0.0
    error: ProviderError | None = None
    errors_left: int = 1_000_000
    broken: bool = False
    """Raises what no provider may."""
    asked: Counter[str] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    most_in_flight: int = 0
    """Of one account at once."""
    release: asyncio.Event | None = None
    """Answers wait for it."""
    on_asked: Callable[[], None] = lambda: None
    currency: Currency | None = None
    """In which everything is told, if not in the one that is asked for."""

    @property
    def manifest(self) -> Manifest:
        return Manifest(
            BANK,
            "Fake bank",
            API_VERSION,
            frozenset({Capability.BALANCES}),
            frozenset({BalanceKind.AVAILABLE, BalanceKind.LEDGER}),
            AccountIdentity.NUMBER,
            frozenset({AmountEncoding.STRING}),
            AmountSign.NEGATIVE_IS_OVERDRAWN,
            BalanceTime.WHEN_ASKED,
            LIMITS,
        )

    async def fetch_balances(self, target: Target, *, deadline_s: float) -> BalanceReading:
        first, *others = target.accounts
        self.asked[first.number] += 1
        self.on_asked()
        self.in_flight[first.number] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight[first.number])
        at = self.clock.now()
        try:
            await asyncio.sleep(self.latency_s)
            if self.release is not None:
                await self.release.wait()
        finally:
            self.in_flight[first.number] -= 1
        if self.broken:
            raise KeyError(first.number)
        if self.error is not None and self.errors_left > 0:
            self.errors_left -= 1
            raise self.error
        rest = Target(tuple(others)) if others else None
        if first.number not in self.money:
            unknown = ProviderNotFound(provider=BANK, reason="unknown", scope=ErrorScope.ACCOUNT)
            return BalanceReading((), (AccountProblem(first, unknown),), rest)
        minor = self.money[first.number]
        told = tuple(
            ReportedBalance(kind, Money(amount, self.currency or first.currency), at)
            for kind, amount in ((BalanceKind.LEDGER, minor + 7), (BalanceKind.AVAILABLE, minor))
        )
        return BalanceReading((AccountReading(first, told),), (), rest)


@dataclass
class SyncWorld:
    """A world whose users have accounts at the fake bank."""

    world: World
    bank: FakeBank
    clock: Clock

    @property
    def database(self) -> Database:
        return self.world.database

    @property
    def lane(self) -> Lane:
        return Lane(DEFAULT_TENANT, BANK)

    async def allow(self, limits: Limits = LIMITS, *, burst: float | None = None) -> None:
        """Give the default tenant a full bucket at the bank."""
        async with self.database.unit_of_work(DEFAULT_TENANT) as uow:
            before = self.clock.now() - timedelta(hours=1)
            await allow_requests(uow, BANK, limits, now=before, burst=burst)

    async def enroll(
        self,
        users: Sequence[str],
        *,
        accounts_each: int = 1,
        tenant: TenantId = DEFAULT_TENANT,
        is_active: bool = True,
        interval: timedelta | None = INTERVAL,
    ) -> dict[str, AccountId]:
        """Make users with accounts `<user>-0`, …; returns the primary account of each."""
        now = self.clock.now()
        wanted = [
            NewMirroredAccount(
                UserId(user),
                BANK,
                f"{user}-{i}",
                find_currency("GBP"),
                is_primary=i == 0,
                is_active=is_active,
            )
            for user in users
            for i in range(accounts_each)
        ]
        async with self.database.unit_of_work(tenant) as uow:
            await uow.execute(
                "INSERT INTO steelyard.app_user (tenant_id, id, created_at) SELECT $1, u, $3 FROM unnest($2::text[]) u "
                "ON CONFLICT DO NOTHING",
                tenant,
                list(users),
                now,
            )
            opened = await enroll_accounts(uow, wanted, Enrollment(BANK, interval), now=now)
        for account in wanted:
            self.bank.money.setdefault(account.number, 1_000)
        return {
            account.user: opened[i][0] for i, account in enumerate(wanted) if account.is_primary
        }

    async def make_due(self) -> None:
        """Let every resting target be due."""
        admin = await self.world.as_superuser()
        await admin.execute(
            "UPDATE steelyard.sync_target SET due_at = $1 WHERE lease_until IS NULL",
            self.clock.now(),
        )
        await admin.close()

    async def lease(
        self, *, worker: str = "w", most: int = 1_000, lease_s: float = 30.0, background: int = -1
    ) -> Taken:
        """Lease as a worker would."""
        slots = Grant(most, most if background < 0 else background)
        return await lease_lane(
            self.database, self.lane, Taker(worker, lease_s, self.clock), slots=slots
        )

    def writer(self, database: Database | None = None) -> ResultWriter:
        """Writes what came back."""
        publish = PublishReadings(self.world.bus, self.world.cache)
        return ResultWriter(database or self.database, self.clock, publish)

    def worker(
        self,
        *,
        name: str = "w",
        database: Database | None = None,
        waiter: RunWaiter | None = None,
        fetch_deadline_s: float = 5.0,
        request_s: float = 5.0,
        slots: int = 64,
        look_every_s: float = 0.05,
    ) -> SyncWorker:
        """A worker of its own."""
        plan = WorkerPlan(
            name,
            INTERVAL,
            look_every_s=look_every_s,
            fetch_deadline_s=fetch_deadline_s,
            request_s=request_s,
            slots=slots,
        )
        used = database or self.database
        return SyncWorker(
            used, self.clock, {BANK: self.bank}, self.writer(used), plan, waiter=waiter
        )

    def logins(self, *, timeout_s: float = 2.0, waiter: RunWaiter | None = None) -> LoginSync:
        """Serves logins."""
        return LoginSync(
            self.database, self.clock, waiter or RunWaiter(self.database), BANK, timeout_s
        )

    async def until_idle(self) -> None:
        """Wait until nothing is due and nobody is at work."""
        async with asyncio.timeout(20):
            status = await load_status(self.database, self.clock)
            while status.priority or status.background or status.processing:
                await asyncio.sleep(0.05)
                status = await load_status(self.database, self.clock)

    async def target(self, user: str) -> dict[str, object]:
        """A target's row."""
        async with self.database.unit_of_work(DEFAULT_TENANT) as uow:
            row = await uow.fetchrow(
                "SELECT * FROM steelyard.sync_target WHERE tenant_id = 'default' AND subject = $1",
                user,
            )
        return {} if row is None else dict(row)

    async def runs(self, user: str) -> list[dict[str, object]]:
        """A user's runs, oldest first."""
        async with self.database.unit_of_work(DEFAULT_TENANT) as uow:
            rows = await uow.fetch(
                "SELECT * FROM steelyard.run WHERE tenant_id = 'default' AND subject = $1 ORDER BY id",
                user,
            )
        return [dict(row) for row in rows]


async def open_sync_world(world: World, clock: Clock | None = None) -> SyncWorld:
    """A world with the bank, which allows 1000 requests a second."""
    used = clock or world.clock
    made = SyncWorld(world, FakeBank(used), used)
    await made.allow()
    return made


@asynccontextmanager
async def working(worker: SyncWorker) -> AsyncIterator[SyncWorker]:
    """A worker at work; drained at the end."""
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def until(is_so: Callable[[], object]) -> None:
    """Wait until it is so, 10 s at most."""
    async with asyncio.timeout(10):
        while True:
            if is_so():
                return
            await asyncio.sleep(0.005)


@dataclass
class Lag:
    """How much later than asked for this machine let a task go on, at worst."""

    most_s: float = 0.0


@asynccontextmanager
async def measuring_lag() -> AsyncIterator[Lag]:
    """Watch how busy the machine is meanwhile: what it takes from us is not ours to promise."""
    lag, loop = Lag(), asyncio.get_running_loop()

    async def watch() -> None:
        while True:
            began = loop.time()
            await asyncio.sleep(0.01)
            lag.most_s = max(lag.most_s, loop.time() - began - 0.01)

    task = asyncio.create_task(watch())
    try:
        yield lag
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
