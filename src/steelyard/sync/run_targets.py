"""The worker: leases, fetches outside any unit of work, and writes what came back many at a time."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId
from steelyard.mirror.model import MirroredAccount
from steelyard.mirror.store import load_accounts
from steelyard.providers.contract import Provider
from steelyard.runtime.database import Database
from steelyard.runtime.errors_out import report_error
from steelyard.sync import store
from steelyard.sync.fetch_balances import fetch_balances
from steelyard.sync.lease_targets import Taker, lease_lane
from steelyard.sync.model import Failure, Fetched, Finish, Grant, Lane, Lease, RunState, State
from steelyard.sync.recover import free_lost_leases
from steelyard.sync.rules import Cadence
from steelyard.sync.wait_for_runs import RunWaiter
from steelyard.sync.write_results import ResultWriter

_log = structlog.get_logger()

WRITTEN_AT_ONCE = 500
COUNT_EVERY_S = 60.0
PAUSE_MIN_S = 0.05
TOO_LATE = Failure(
    code="worker_late",
    message="the worker came to it when too little of its lease was left; the source was not asked",
    may_retry=True,
)


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How one worker works.

    Args:
        name: Shown with its leases.
        interval: Between two syncs of a target; None: only when asked for.
        look_every_s: Longest a due target waits for a free worker to look.
        fetch_deadline_s: For all requests of one target, at most: they end `write_s` before the lease does.
        write_s: What is left of a lease for writing.
        slots: Targets in flight in this process; `login_slots` of them are kept for logins.
        login_slots: See `slots`.
    """

    name: str
    interval: timedelta | None = timedelta(minutes=5)
    look_every_s: float = 1.0
    fetch_deadline_s: float = 20.0
    write_s: float = 10.0
    slots: int = 64
    login_slots: int = 4


@dataclass(slots=True)
class SyncWorker:
    """One worker; any number of processes may run one on the same database."""

    database: Database
    clock: Clock
    providers: Mapping[str, Provider]
    writer: ResultWriter
    plan: WorkerPlan
    waiter: RunWaiter | None = None
    """Of this process: hears of ends at once."""
    late: int = 0
    """Results that came after their lease and were refused."""
    before_turn: Callable[[], Awaitable[None]] | None = None
    """Done at least every `look_every_s`: tenants that are new get their budgets."""
    failed_turns: int = 0
    lost: int = 0
    """Results that could not be written; their leases run out and they are fetched again."""
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _ready: list[Fetched] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _writing: asyncio.Task[None] | None = None
    _cadences: dict[tuple[TenantId, str], tuple[Cadence, float]] = field(default_factory=dict)
    _freed_s: float | None = None
    _is_full: bool = False
    _stopping: bool = False

    def wake(self) -> None:
        """Look at once: something was asked for."""
        self._wake.set()

    async def run(self) -> None:
        """Work until `stop` is called, then finish what is under way; a turn that failed is made again."""
        while not self._stopping:
            self._wake.clear()
            try:
                pause_s = await self.turn()
            except DatabaseUnavailable as error:
                _log.warning("sync.waiting", worker=self.plan.name, reason=str(error))
                pause_s = self.plan.look_every_s
            # The edge of a background task: one turn's failure must not end the worker.
            except Exception as error:
                self.failed_turns += 1
                _log.error("sync.turn_failed", worker=self.plan.name, exc_info=error)
                report_error(error, task="sync")
                pause_s = self.plan.look_every_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
        await self.drain()

    def stop(self) -> None:
        """Lease nothing more; `run` returns when what is under way is written."""
        self._stopping = True
        self._wake.set()

    async def drain(self) -> None:
        """Wait until everything under way is fetched, or given up by its deadline, and written."""
        while self._under_way or self._writing is not None:
            tasks = {*self._under_way, *([self._writing] if self._writing else ())}
            await asyncio.wait(tasks)

    async def abandon(self) -> None:
        """Give up what is under way; the leases run out and others take its targets."""
        tasks = {*self._under_way, *([self._writing] if self._writing else ())}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def turn(self) -> float:
        """Lease what is due and granted, and begin fetching it. Returns seconds until it is worth looking again."""
        await self._free_lost()
        pause_s = self.plan.look_every_s
        lanes = await store.list_lanes(
            self.database, list(self.providers), count=0, now=self.clock.now()
        )
        lease_s = self.plan.fetch_deadline_s + self.plan.write_s
        taker = Taker(self.plan.name, lease_s, self.clock)
        for lane in lanes:
            free = self.plan.slots - len(self._under_way)
            self._is_full = free <= 0
            if self._is_full:
                return pause_s  # woken by the first that ends
            slots = Grant(free, max(0, free - self.plan.login_slots))
            taken = await lease_lane(self.database, lane, taker, slots=slots)
            if taken.leases:
                await self._begin(lane, taken.leases)
            if taken.is_limited:
                pause_s = min(pause_s, max(PAUSE_MIN_S, 1.0 / taken.rate_per_s))
        return pause_s

    async def _free_lost(self) -> None:
        now_s = self.clock.monotonic_s()
        if self._freed_s is None or now_s - self._freed_s >= self.plan.look_every_s:
            if self.before_turn is not None:
                await self.before_turn()
            await free_lost_leases(self.database, self.clock)
            self._freed_s = now_s

    async def _begin(self, lane: Lane, leases: Sequence[Lease]) -> None:
        await self._keep_cadence(lane)
        async with self.database.unit_of_work(lane.tenant) as uow:
            users = [lease.subject for lease in leases]
            accounts = await load_accounts(uow, users, lane.provider)
        for lease in leases:
            task = asyncio.create_task(
                self._fetch(lease, accounts.get(lease.subject, [])), name="sync.fetch"
            )
            self._under_way.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if self._is_full:
            self._wake.set()

    async def _fetch(self, lease: Lease, accounts: Sequence[MirroredAccount]) -> None:
        if not accounts:
            self._hand_over(Fetched(lease, is_ineligible=True))
            return
        provider = self.providers[lease.provider]
        left_s = (lease.until - self.clock.now()).total_seconds() - self.plan.write_s
        deadline_s = min(self.plan.fetch_deadline_s, left_s)
        if deadline_s <= 0:
            self._hand_over(Fetched(lease, failure=TOO_LATE))
            return
        try:
            fetched = await fetch_balances(provider, lease, accounts, deadline_s=deadline_s)
        # The edge to code of third parties: one that breaks its contract must not keep a lease or end the worker.
        except Exception as error:
            _log.error("sync.provider_broke_contract", provider=lease.provider, exc_info=error)
            broken = Failure("provider_unclassified", f"{lease.provider} failed unexpectedly", True)
            fetched = Fetched(lease, failure=broken, requests=1)
        self._hand_over(fetched)

    def _hand_over(self, fetched: Fetched) -> None:
        self._ready.append(fetched)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="sync.write")

    async def _write(self) -> None:
        """Write what is ready; what gets ready meanwhile is the next batch."""
        try:
            while self._ready:
                batch, self._ready = self._ready[:WRITTEN_AT_ONCE], self._ready[WRITTEN_AT_ONCE:]
                by_tenant: dict[TenantId, list[Fetched]] = defaultdict(list)
                for one in batch:
                    by_tenant[one.lease.tenant].append(one)
                for tenant, results in by_tenant.items():
                    await self._write_tenant(tenant, results)
        finally:
            self._writing = None

    async def _write_tenant(self, tenant: TenantId, results: Sequence[Fetched]) -> None:
        cadences = {
            one.lease.provider: self._cadence(tenant, one.lease.provider) for one in results
        }
        try:
            accepted = await self.writer.write(tenant, results, cadences)
        except DatabaseUnavailable as error:
            self.lost += len(results)
            _log.warning("sync.not_written", results=len(results), reason=str(error))
            return
        # The edge of a background task: the results of other tenants still have to be written.
        except Exception as error:
            self.lost += len(results)
            _log.error("sync.not_written", results=len(results), exc_info=error)
            report_error(error, task="sync")
            return
        self.late += sum(not one.is_ineligible for one in results) - len(accepted)
        self._tell(tenant, accepted)

    def _tell(self, tenant: TenantId, accepted: Sequence[Finish]) -> None:
        for one in accepted:
            if one.state is not State.COMPLETED:
                _log.info("sync.failed", run=one.lease.run, state=one.state, code=one.word)
        if self.waiter is not None:
            states = [
                RunState(one.lease.run, one.state, str(one.error["code"]) if one.error else None)
                for one in accepted
            ]
            self.waiter.tell(tenant, states)

    def _cadence(self, tenant: TenantId, provider: str) -> Cadence:
        known = self._cadences.get((tenant, provider))
        return Cadence(self.plan.interval, 0) if known is None else known[0]

    async def _keep_cadence(self, lane: Lane) -> None:
        """Count the lane's targets now and then: whether its source bears them all at one interval."""
        place, now_s = (lane.tenant, lane.provider), self.clock.monotonic_s()
        if place in self._cadences and now_s - self._cadences[place][1] < COUNT_EVERY_S:
            return
        async with self.database.unit_of_work(lane.tenant) as uow:
            targets = await store.count_targets(uow, lane.provider)
        self._cadences[place] = (Cadence(self.plan.interval, targets), now_s)
