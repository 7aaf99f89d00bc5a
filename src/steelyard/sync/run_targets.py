"""The worker: leases, fetches outside any unit of work, and hands what came back to be written."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import asyncpg
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
from steelyard.sync.fetch_balances import Asking, fetch_balances
from steelyard.sync.figures import SyncFigures
from steelyard.sync.keep_cadence import Cadences
from steelyard.sync.lease_targets import Taken, Taker, lease_lane
from steelyard.sync.model import Failure, Fetched, Finish, Grant, Lane, Lease, RunState, State
from steelyard.sync.recover import free_lost_leases, give_back, lower_unwaited
from steelyard.sync.take_permits import Permits
from steelyard.sync.wait_for_runs import RunWaiter
from steelyard.sync.write_queue import WRITTEN_AT_ONCE, WriteQueue
from steelyard.sync.write_results import ResultWriter

_log = structlog.get_logger()

PAUSE_MIN_S = 0.05
LOCK_WAIT_S = 0.1
GIVE_BACK_S = 2.0
TOO_LATE = Failure(
    code="worker_late",
    message="the worker came to it when too little of its lease was left; the source was not asked",
    may_retry=True,
)

Place = tuple[TenantId, str]
__all__ = ["WRITTEN_AT_ONCE", "SyncWorker", "WorkerPlan"]


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How one worker works.

    Args:
        name: Shown with its leases.
        interval: Between two syncs of a target; None: only when asked for.
        look_every_s: Longest a due target waits for a free worker to look.
        fetch_deadline_s: For all requests of one target, at most: they end `write_s` before the lease does.
        request_s: For one request, at most, so that a source that hangs gives its slots back.
        write_s: What is left of a lease for writing.
        slots: Targets in flight in this process; `login_slots` of them are kept for logins, and a source gets
            at most three quarters, so that one that hangs leaves some to others.
        login_slots: See `slots`.
    """

    name: str
    interval: timedelta | None = timedelta(minutes=5)
    look_every_s: float = 1.0
    fetch_deadline_s: float = 20.0
    request_s: float = 10.0
    write_s: float = 10.0
    slots: int = 128
    login_slots: int = 8


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
    before_turn: Callable[[], Awaitable[None]] | None = None
    """Done at least every `look_every_s`: tenants that are new get their budgets."""
    figures: SyncFigures = field(default_factory=SyncFigures)
    cadences: Cadences = field(init=False)
    permits: Permits = field(init=False)
    results: WriteQueue = field(init=False)
    _under_way: dict[asyncio.Task[None], Lease] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _freed_s: float | None = None
    _stuck: dict[Place, float] = field(default_factory=dict)
    """Sources whose budget somebody keeps locked, and until when nobody waits for it."""
    _served_last: Place | None = None
    _is_full: bool = False
    _stopping: bool = False

    def __post_init__(self) -> None:
        """Put its parts together."""
        self.cadences = Cadences(self.database, self.clock, self.plan.interval)
        self.permits = Permits(self.database, self.clock)
        self.results = WriteQueue(self.writer, self.cadences.of, self._tell, self.figures)

    @property
    def late(self) -> int:
        """Results that came after their lease and were refused."""
        return self.figures.late

    @property
    def lost(self) -> int:
        """Results that could not be written."""
        return self.figures.lost

    @property
    def failed_turns(self) -> int:
        """Turns that ended in something unexpected."""
        return self.figures.failed_turns

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
                self.figures.failed_turns += 1
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
        while tasks := [*self._under_way, *self.results.tasks]:
            await asyncio.wait(tasks)

    async def abandon(self) -> None:
        """Give up what is under way and give its leases back, so that others take its targets at once."""
        leases = [*self._under_way.values(), *self.results.leases()]
        tasks = [*self._under_way, *self.results.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.permits.close()
        await self.cadences.close()
        if not leases:
            return
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                returned = await give_back(self.database, leases, self.clock)
        except (DatabaseUnavailable, TimeoutError, asyncpg.PostgresError) as error:
            _log.warning("sync.not_given_back", leases=len(leases), reason=str(error))
        else:
            _log.info("sync.given_back", worker=self.plan.name, leases=returned)

    @property
    def busy(self) -> int:
        """Targets in flight, and results that are not written yet."""
        return len(self._under_way) + self.results.size

    async def turn(self) -> float:
        """Lease what is due and granted, and begin fetching it. Returns seconds until it is worth looking again.

        Sources with logins come first, and each turn begins after the one that was served last. Each gets an even
        part of the free slots. A source whose budget is locked is asked again after all others.
        """
        await self._tend()
        lanes = await store.list_lanes(
            self.database, list(self.providers), count=0, now=self.clock.now()
        )
        pause_s, locked = self.plan.look_every_s, []
        for left, lane in self._in_turn(lanes):
            taken = await self._serve(lane, left, lock_wait_s=0)
            if taken is None:
                return pause_s  # woken by the first that ends
            if taken.is_locked:
                locked.append(lane)
            elif taken.is_limited:
                pause_s = min(pause_s, max(PAUSE_MIN_S, 1.0 / taken.rate_per_s))
            elif taken.opens_s is not None:
                pause_s = min(pause_s, max(PAUSE_MIN_S, taken.opens_s))
        for lane in locked:
            pause_s = min(pause_s, PAUSE_MIN_S)
            place, now_s = (lane.tenant, lane.provider), self.clock.monotonic_s()
            if self._stuck.get(place, now_s) > now_s:
                continue
            taken = await self._serve(lane, 1, lock_wait_s=LOCK_WAIT_S)
            if taken is not None and taken.is_locked:
                self._stuck[place] = self.clock.monotonic_s() + 1.0
        return pause_s

    def _in_turn(self, lanes: Sequence[Lane]) -> Iterator[tuple[int, Lane]]:
        """Return the lanes in the order they are served, each with how many are left, itself included."""
        last = self._served_last
        after = [lane for lane in lanes if last is None or (lane.tenant, lane.provider) > last]
        rotated = [*after, *(lane for lane in lanes if lane not in after)]
        ordered = sorted(rotated, key=lambda lane: lane.priority_due == 0)
        return ((len(ordered) - at, lane) for at, lane in enumerate(ordered))

    async def _serve(self, lane: Lane, left: int, *, lock_wait_s: float) -> Taken | None:
        """Lease for one lane within its part of the free slots. None: there are none."""
        place = (lane.tenant, lane.provider)
        free = self.plan.slots - self.busy
        self._is_full = free <= 0
        if self._is_full:
            return None
        slots = self._slots_of(place, free, left)
        if slots.login == 0:
            self._is_full = True  # the first that ends makes room
            return Taken([], 1.0, is_limited=False)
        taker = Taker(self.plan.name, self.plan.fetch_deadline_s + self.plan.write_s, self.clock)
        taken = await lease_lane(self.database, lane, taker, slots=slots, lock_wait_s=lock_wait_s)
        if taken.leases:
            self._served_last = place
            await self._begin(lane, taken.leases)
        if len(taken.leases) >= slots.background:
            self._is_full = True  # it was cut off
            if left > 1 and slots.background:
                self.wake()  # others may leave something of their part
        return taken

    def _slots_of(self, place: Place, free: int, left: int) -> Grant:
        """Return the targets a lane may have of those free: an even part, and never all there are."""
        own = sum((lease.tenant, lease.provider) == place for lease in self._under_way.values())
        most = max(1, self.plan.slots - self.plan.slots // 4)
        login = min(-(-free // left), max(0, most - own))
        background = min(login, -(-max(0, free - self.plan.login_slots) // left))
        return Grant(login, 0 if self.permits.is_waited_for(place) else background)

    async def _tend(self) -> None:
        """Now and then: budgets of new tenants, leases that ran out, and logins that nobody waits for."""
        now_s = self.clock.monotonic_s()
        if self._freed_s is None or now_s - self._freed_s >= self.plan.look_every_s:
            if self.before_turn is not None:
                await self.before_turn()
            self.figures.leases_lost += await free_lost_leases(self.database, self.clock)
            await lower_unwaited(self.database, self.clock)
            self._freed_s = now_s

    async def _begin(self, lane: Lane, leases: Sequence[Lease]) -> None:
        self.cadences.refresh((lane.tenant, lane.provider))
        async with self.database.unit_of_work(lane.tenant) as uow:
            users = [lease.subject for lease in leases]
            accounts = await load_accounts(uow, users, lane.provider)
        for lease in leases:
            task = asyncio.create_task(
                self._fetch(lease, accounts.get(lease.subject, [])), name="sync.fetch"
            )
            self._under_way[task] = lease
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        if self._is_full:
            self._wake.set()

    async def _fetch(self, lease: Lease, accounts: Sequence[MirroredAccount]) -> None:
        if not accounts:
            self.results.put(Fetched(lease, is_ineligible=True))
            return
        provider = self.providers[lease.provider]
        left_s = (lease.until - self.clock.now()).total_seconds() - self.plan.write_s
        deadline_s = min(self.plan.fetch_deadline_s, left_s)
        if deadline_s <= 0:
            self.results.put(Fetched(lease, failure=TOO_LATE))
            return
        try:
            asking = Asking(deadline_s, self.plan.request_s, partial(self.permits.take, lease))
            fetched = await fetch_balances(provider, lease, accounts, asking)
        # The edge to code of third parties: one that breaks its contract must not keep a lease or end the worker.
        except Exception as error:
            _log.error("sync.provider_broke_contract", provider=lease.provider, exc_info=error)
            broken = Failure("provider_unclassified", f"{lease.provider} failed unexpectedly", True)
            fetched = Fetched(lease, failure=broken, requests=1)
        self.results.put(fetched)

    def _tell(self, tenant: TenantId, accepted: Sequence[Finish]) -> None:
        for one in accepted:
            self.figures.finished[one.state] += 1
            if one.state is not State.COMPLETED and not one.is_progress:
                _log.info("sync.failed", run=one.lease.run, state=one.state, code=one.word)
        if self._is_full:
            self._wake.set()
        if self.waiter is not None:
            states = [
                RunState(
                    one.lease.run,
                    one.state,
                    str(one.error["code"]) if one.error else None,
                    frozenset(one.read),
                )
                for one in accepted
            ]
            self.waiter.tell(tenant, states)
