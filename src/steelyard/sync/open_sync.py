"""This process's part in syncing: the worker it runs and the logins it serves, opened and closed with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from steelyard.access.model import Principal
from steelyard.access.tenants import list_tenants
from steelyard.core.clock import Clock
from steelyard.core.ids import IdSource, TenantId, UserId
from steelyard.jobs.request_run import hash_token
from steelyard.mirror.apply_readings import PublishReadings
from steelyard.providers.contract import Limits, ProviderContext
from steelyard.providers.load import load_plugin
from steelyard.runtime.bus import ChangeBus
from steelyard.runtime.cache import BalanceCache
from steelyard.runtime.database import Database
from steelyard.runtime.settings import Settings
from steelyard.sync import store
from steelyard.sync.control_sync import ControlOrder, cancel_sync, pause_sync, resume_sync
from steelyard.sync.describe_sync import Viewer
from steelyard.sync.enroll import allow_requests
from steelyard.sync.figures import SyncFigures
from steelyard.sync.limit_requests import RequestLimit
from steelyard.sync.model import Raised, Reason, SourceStatus, SyncedUser, SyncResult, SyncStatus
from steelyard.sync.raise_target import SyncRequest, raise_users
from steelyard.sync.run_targets import SyncWorker, WorkerPlan
from steelyard.sync.status import load_status
from steelyard.sync.sync_with_timeout import LoginSync
from steelyard.sync.tend_targets import TargetTender
from steelyard.sync.wait_for_runs import RunWaiter
from steelyard.sync.watch_sources import SourceWatch
from steelyard.sync.write_results import ResultWriter

CORE_BANK: Final = "t24"
DRAIN_S: Final = 5.0
STATUS_KEPT_S: Final = 1.0
LOCK_WAIT_S: Final = 0.1

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SyncParts:
    """What syncing works with."""

    settings: Settings
    database: Database
    clock: Clock
    ids: IdSource
    bus: ChangeBus
    cache: BalanceCache


@dataclass(slots=True)
class Running:
    """What there is while there is a source. The worker works from `start` to `stop`."""

    make_worker: Callable[[], SyncWorker]
    logins: LoginSync
    limits: Limits
    tender: TargetTender
    watch: SourceWatch
    allowed: set[TenantId] = field(default_factory=set)
    worker: SyncWorker | None = None
    task: asyncio.Task[None] | None = None
    beside: tuple[asyncio.Task[None], ...] = ()
    """What a process that syncs does beside it, now and then."""

    def wake(self) -> None:
        """Let this process's worker look at once, where there is one."""
        if self.worker is not None:
            self.worker.wake()

    def start(self) -> None:
        """Begin to work, unless this process does already."""
        if self.worker is None:
            self.worker = self.make_worker()
            self.task = asyncio.create_task(self.worker.run(), name="sync.worker")
            self.beside = (
                asyncio.create_task(self.tender.run(), name="sync.tend_targets"),
                asyncio.create_task(self.watch.run(), name="sync.watch_sources"),
            )

    async def stop(self) -> None:
        """Lease nothing more and write what is under way, for at most 5 s; what is left is given back to others."""
        worker, task = self.worker, self.task
        if worker is None or task is None:
            return
        self.worker = self.task = None
        for one in self.beside:
            one.cancel()
        await asyncio.gather(*self.beside, return_exceptions=True)
        self.watch.seen = ()
        worker.stop()
        await asyncio.wait({task}, timeout=DRAIN_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await worker.abandon()


@dataclass(slots=True)
class BalanceSync:
    """Balances at the core bank, for any tenant. Without T24_API_URL nothing runs and every answer says so."""

    database: Database
    clock: Clock
    interval: timedelta | None = None
    """Between two syncs of a target; None: only when asked for."""
    running: Running | None = None
    figures: SyncFigures = field(default_factory=SyncFigures)
    limit: RequestLimit = field(init=False)
    _status: tuple[SyncStatus, float] | None = None
    _counting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Begin with full buckets."""
        self.limit = RequestLimit(self.clock)

    @property
    def seen(self) -> tuple[SourceStatus, ...]:
        """How this process saw the sources last; empty where it does not sync."""
        return () if self.running is None else self.running.watch.seen

    @property
    def viewer(self) -> Viewer:
        """Describes sources and users."""
        return Viewer(self.database, self.clock, self.interval)

    async def describe_sources(self, tenant: TenantId | None = None) -> list[SourceStatus]:
        """Return how the core bank stands for one tenant, or for each; as `Viewer.sources`."""
        return await self.viewer.sources([CORE_BANK], tenant=tenant)

    async def describe_user(self, tenant: TenantId, user: UserId) -> SyncedUser:
        """Return everything of a user's syncs; as `Viewer.user`."""
        return await self.viewer.user(tenant, user, CORE_BANK)

    async def pause(self, principal: Principal, order: ControlOrder) -> bool:
        """Ask for nothing more; as `pause_sync`."""
        async with self.database.unit_of_work(principal.tenant) as uow:
            return await pause_sync(uow, principal, order, now=self.clock.now())

    async def resume(self, principal: Principal, order: ControlOrder) -> bool:
        """Ask again; as `resume_sync`."""
        async with self.database.unit_of_work(principal.tenant) as uow:
            was_paused = await resume_sync(uow, principal, order, now=self.clock.now())
        if self.running is not None:
            self.running.wake()
        return was_paused

    async def cancel(self, principal: Principal, order: ControlOrder) -> int:
        """End what a user's syncs are at; as `cancel_sync`."""
        async with self.database.unit_of_work(principal.tenant) as uow:
            now = self.clock.now()
            return await cancel_sync(uow, principal, order, interval=self.interval, now=now)

    async def sync_with_timeout(self, tenant: TenantId, user: UserId) -> SyncResult:
        """Answer a login: as `LoginSync.sync_with_timeout`."""
        if self.running is None:
            return SyncResult(ok=False, reason=Reason.OFF)
        return await self.running.logins.sync_with_timeout(tenant, user)

    async def queue_sync(
        self, tenant: TenantId, user: UserId, *, token: str | None = None
    ) -> Raised:
        """Ask for a sync in the background; a user is never queued twice.

        Args:
            tenant: Whose user.
            user: Who.
            token: A public token that may read the run; only its hash is kept.
        Raises:
            DatabaseUnavailable: The database did not answer.
        """
        if self.running is None:
            return Raised(None, reason=Reason.OFF)
        async with self.database.unit_of_work(tenant) as uow:
            now = self.clock.now()
            token_hash = None if token is None else hash_token(token)
            request = SyncRequest(user, CORE_BANK, token_hash=token_hash)
            [raised] = await raise_users(uow, [request], now=now)
        self.running.wake()
        return raised

    @property
    def is_working(self) -> bool:
        """Whether this process syncs what is due."""
        return self.running is not None and self.running.worker is not None

    def start(self) -> None:
        """Let this process sync what is due, of every tenant; where it does already, or without a core bank: nothing."""
        if self.running is not None and not self.is_working:
            self.running.start()
            _log.info(
                "sync.started",
                interval_s=0 if self.interval is None else self.interval.total_seconds(),
                auth_timeout_ms=round(self.running.logins.timeout_s * 1000),
            )

    async def stop(self) -> None:
        """Let this process sync no more; other processes do, and logins are still asked for."""
        if self.running is not None and self.is_working:
            await self.running.stop()
            _log.info("sync.stopped")

    async def get_status(self) -> SyncStatus:
        """Return what waits and whether anybody works, of the whole installation; at most a second old.

        Raises:
            DatabaseUnavailable: The database did not answer.
        """
        async with self._counting:
            now_s = self.clock.monotonic_s()
            if self._status is None or now_s - self._status[1] >= STATUS_KEPT_S:
                self._status = (await load_status(self.database, self.clock), now_s)
            return self._status[0]

    async def allow_tenants(self) -> None:
        """Give each tenant that has none yet its budget at the source, with the limits of the settings."""
        if self.running is None:
            return
        for tenant in await list_tenants(self.database):
            if tenant.id not in self.running.allowed:
                try:
                    async with self.database.unit_of_work(tenant.id) as uow:
                        await store.limit_lock_waits(uow, LOCK_WAIT_S)
                        now = self.clock.now()
                        await allow_requests(uow, CORE_BANK, self.running.limits, now=now)
                except asyncpg.LockNotAvailableError:
                    continue  # in the next turn; other tenants do not wait for it
                self.running.allowed.add(tenant.id)


@asynccontextmanager
async def open_sync(parts: SyncParts, *, starts: bool = True) -> AsyncIterator[BalanceSync]:
    """Begin to sync, if the settings name a core bank; on leaving, write what is under way, for at most 5 s.

    Args:
        parts: What it works with.
        starts: Whether this process's worker begins at once; else `BalanceSync.start` lets it.
    Raises:
        ProviderUnusable: The settings of the core bank do not fit together.
    """
    settings = parts.settings
    interval_ms = settings.balance_sync_interval
    interval = timedelta(milliseconds=interval_ms) if interval_ms else None
    sync = BalanceSync(parts.database, parts.clock, interval)
    if settings.t24_api_url is None:
        yield sync
        return
    plugin = load_plugin(CORE_BANK)
    async with plugin.open(ProviderContext(settings, parts.clock)) as provider:
        waiter = RunWaiter(parts.database)
        writer = ResultWriter(parts.database, parts.clock, PublishReadings(parts.bus, parts.cache))

        def make_worker() -> SyncWorker:
            plan = plan_of(settings, name=parts.ids.new_id()[:12])
            providers = {CORE_BANK: provider}
            return SyncWorker(
                parts.database,
                parts.clock,
                providers,
                writer,
                plan,
                waiter=waiter,
                before_turn=sync.allow_tenants,
                figures=sync.figures,
            )

        logins = LoginSync(
            parts.database, parts.clock, waiter, CORE_BANK, settings.auth_sync_timeout / 1000
        )
        logins.figures = sync.figures
        tender = TargetTender(parts.database, parts.clock, [CORE_BANK], interval)
        watch = SourceWatch(sync.viewer, [CORE_BANK])
        sync.running = Running(make_worker, logins, provider.manifest.limits, tender, watch)
        logins.on_raised = sync.running.wake
        if starts:
            sync.start()
        try:
            yield sync
        finally:
            await sync.stop()
            await waiter.close()
            await logins.close()


def plan_of(settings: Settings, *, name: str) -> WorkerPlan:
    """Return how this process's worker works; an interval of 0 leaves only what is asked for."""
    interval_ms = settings.balance_sync_interval
    return WorkerPlan(
        name,
        timedelta(milliseconds=interval_ms) if interval_ms else None,
        look_every_s=settings.queue_process_interval / 1000,
    )
