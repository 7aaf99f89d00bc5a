"""One run: a fresh ledger, a load, blows, a check, and one line that says how it went."""

import asyncio
import time
from dataclasses import dataclass, field

from steelyard.access.tenants import create_tenant
from steelyard.balances.model import NewAccount
from steelyard.balances.store import open_accounts, open_book
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.reconcile.operations import Reconcile
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Database
from tests.crash.check import check
from tests.crash.history import Asked, Done, History, Invocation
from tests.crash.killer import Killer, Schedule
from tests.crash.laws import Law, Violation
from tests.crash.ledger_copy import load_ledger
from tests.crash.postgres import PostgresUnderFire
from tests.crash.target import Target
from tests.crash.workload import Pace, Workload
from tests.world import FreshDatabase

SETTLE_S = 0.3
OPENING = 60
OPENING_TRIES = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a run is."""

    seed: int
    operations: int
    clients: int = 40
    accounts: int = 12
    deadline_s: float = 600.0
    schedule: Schedule = field(default_factory=Schedule)
    least_kills: int = 0
    """The load goes on until the API and PostgreSQL were each killed so often."""


@dataclass(slots=True)
class Report:
    """What one run did and what it found."""

    plan: Plan
    history: History
    violations: list[Violation]
    took_s: float
    checked_s: float
    processes: int = 0
    api_kills: int = 0
    postgres_kills: dict[str, int] = field(default_factory=dict)
    cuts: int = 0

    @property
    def summary(self) -> str:
        """One line."""
        history = self.history
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.postgres_kills.items()))
        return (
            f"crash proof, seed {self.plan.seed}: {len(history.invocations):,} operations by {self.plan.clients} "
            f"clients on {self.processes} processes in {self.took_s:.0f} s "
            f"({history.acknowledged:,} acknowledged, {history.refused:,} refused, {history.unknown:,} unknown), "
            f"{len(history.readings):,} reads; "
            f"kills: {self.api_kills} of the API, {sum(self.postgres_kills.values())} of PostgreSQL"
            f"{f' ({kinds})' if kinds else ''}{f', {self.cuts} cuts of its connections' if self.cuts else ''}; "
            f"violations: {len(self.violations)} (checked in {self.checked_s:.1f} s)"
        )


async def open_books(fresh: FreshDatabase, count: int) -> list[int]:
    """Make the default tenant with a book in GBP and empty accounts of one user each."""
    clock, database = SystemClock(), await Database.open(fresh.app_url, pool_size=2)
    try:
        now = clock.now()
        await create_tenant(database, DEFAULT_TENANT, name="Crash", time_zone="UTC", now=now)
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            currency = find_currency("GBP")
            await open_book(uow, currency, now=now)
            wanted = []
            for number in range(count):
                await uow.execute(
                    "INSERT INTO steelyard.app_user (tenant_id, id, created_at) VALUES ($1, $2, $3)",
                    DEFAULT_TENANT,
                    f"user-{number}",
                    now,
                )
                wanted.append(NewAccount(UserId(f"user-{number}"), currency))
            opened = await open_accounts(uow, wanted, now=now)
    finally:
        await database.close()
    return [account for account, _ in opened]


async def run_load(
    target: Target, fresh: FreshDatabase, postgres: PostgresUnderFire, plan: Plan
) -> Report:
    """Load a target whose processes run, strike it on schedule, and check what is left.

    The history is whole: opening the accounts' balances belongs to it.
    """
    accounts = await open_books(fresh, plan.accounts)
    pace = Pace(plan.operations, plan.deadline_s)
    workload = Workload(target, accounts, seed=plan.seed, clients=plan.clients, pace=pace)
    killer = Killer(target, postgres, fresh, plan.seed, plan.schedule, lambda: pace.goes_on)
    pace.is_enough = lambda: killer.has_struck(plan.least_kills)
    began_s = time.monotonic()
    await _recharge_all(workload, accounts)
    pace.begin()
    async with asyncio.TaskGroup() as group:
        group.create_task(workload.run())
        group.create_task(killer.run())
    took_s = time.monotonic() - began_s
    await postgres.wait_ready()
    await asyncio.sleep(SETTLE_S)  # what a process still works on for a client who gave up
    await target.close()
    checked_s = time.monotonic()
    violations = check(workload.history, await load_ledger(fresh.admin_url, DEFAULT_TENANT))
    return Report(
        plan,
        workload.history,
        violations,
        took_s,
        time.monotonic() - checked_s,
        len(target.processes),
        killer.api_kills,
        killer.postgres_kills,
        killer.cuts,
    )


async def verify(fresh: FreshDatabase) -> list[Violation]:
    """Ask the product's own verification, every hash included; return what it objects to."""
    database = await Database.open(fresh.app_url, pool_size=2)
    try:
        report = await Reconcile(database, DEFAULT_TENANT, SystemClock()).verify()
    finally:
        await database.close()
    return [
        Violation(Law.VERIFY, f"{one.fault}: {one.sentence}", one.account) for one in report.details
    ]


async def _recharge_all(workload: Workload, accounts: list[int]) -> None:
    """Give every account its first money, however often that takes."""
    for account in accounts:
        asked = Asked("recharge", account, OPENING, f"{workload.seed}-opening-{account}")
        for _ in range(OPENING_TRIES):
            invoked_s = time.monotonic()
            outcome = await workload.target.send(0, asked)
            completed_s = time.monotonic()
            workload.history.record(Invocation(-1, 0, asked, invoked_s, completed_s, outcome))
            if isinstance(outcome, Done):
                break
        else:
            raise AssertionError(f"no money for account {account}: {outcome}")
