"""One simulated server: its worker, the logins it serves, schedules and jobs, with a database pool of its own."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta

from pydantic import SecretStr

from steelyard.core.clock import Clock
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.mirror.apply_readings import PublishReadings
from steelyard.providers.contract import ProviderContext
from steelyard.providers.t24.client import open_client
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.database import Database
from steelyard.runtime.settings import Settings
from steelyard.sync.model import Raised, SyncResult
from steelyard.sync.raise_target import SyncRequest, raise_users
from steelyard.sync.run_targets import SyncWorker, WorkerPlan
from steelyard.sync.sync_with_timeout import LoginSync
from steelyard.sync.wait_for_runs import RunWaiter
from steelyard.sync.write_results import ResultWriter
from steelyard.testing.one_at_a_time import Turns
from steelyard.testing.simulated_day.plan import DayPlan
from steelyard.testing.simulated_day.town import BankTransport, Town
from steelyard.testing.simulated_day.trace import Trace
from steelyard.testing.simulated_day.upkeep import Upkeep, UpkeepParts
from steelyard.testing.simulated_process import SimulatedProcess

BANK = "t24"
POOL = 8
LOGIN_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class DayParts:
    """What every server of a day works with."""

    plan: DayPlan
    url: str
    clock: Clock
    turns: Turns
    town: Town
    trace: Trace
    login_timeout_s: float = LOGIN_TIMEOUT_S
    fetch_deadline_s: float = 20.0
    write_s: float = 10.0


@dataclass(slots=True)
class Server:
    """A server at work. Once killed it does nothing more; another one begins instead."""

    name: str
    process: SimulatedProcess
    database: Database
    worker: SyncWorker
    logins: LoginSync
    waiter: RunWaiter
    working: "asyncio.Task[None]"
    upkeep: Upkeep
    _open: AsyncExitStack
    _dying: list["asyncio.Task[None]"] = field(default_factory=list)

    @classmethod
    async def begin(cls, parts: DayParts, name: str) -> "Server":
        """Begin one: as `open_sync` does, with the bank in memory."""
        process = parts.turns.process(name)
        database = await process.open_database(parts.url, size=POOL)
        opened = AsyncExitStack()
        key = SecretStr(parts.town.bank.options.key)
        settings = Settings(t24_api_url="http://bank.test", t24_api_key=key)
        context = ProviderContext(settings, parts.clock)
        client = open_client(context, transport=BankTransport(parts.town))
        provider = await opened.enter_async_context(client)
        bus, cache = InProcessBus(), InProcessCache(parts.clock)
        bus.subscribe(parts.trace.hear)
        writer = ResultWriter(database, parts.clock, PublishReadings(bus, cache))
        plan = WorkerPlan(
            name,
            timedelta(seconds=parts.plan.interval_s),
            look_every_s=parts.plan.look_every_s,
            fetch_deadline_s=parts.fetch_deadline_s,
            write_s=parts.write_s,
        )
        waiter = RunWaiter(database)
        worker = SyncWorker(database, parts.clock, {BANK: provider}, writer, plan, waiter=waiter)
        logins = LoginSync(
            database, parts.clock, waiter, BANK, parts.login_timeout_s, on_raised=worker.wake
        )
        working = asyncio.create_task(worker.run(), name=f"{name}.worker")
        look_every_s = parts.plan.look_every_s
        upkeep = await Upkeep.begin(
            UpkeepParts(database, parts.clock, bus, cache, look_every_s), name
        )
        made = cls(name, process, database, worker, logins, waiter, working, upkeep, opened)
        process.on_death = made._die
        return made

    @property
    def is_up(self) -> bool:
        """Whether somebody could reach it."""
        return not self.process.is_dead and not self.process.is_stopped

    async def log_in(self, user: UserId) -> SyncResult:
        """Serve a login."""
        return await self.logins.sync_with_timeout(DEFAULT_TENANT, user)

    async def queue_sync(self, user: UserId, clock: Clock) -> Raised:
        """Ask for a sync after a transaction."""
        async with self.database.unit_of_work(DEFAULT_TENANT) as uow:
            [raised] = await raise_users(uow, [SyncRequest(user, BANK)], now=clock.now())
        self.worker.wake()
        return raised

    async def end(self) -> None:
        """End in good order: everything under way is written."""
        if self.process.is_dead:
            await asyncio.gather(*self._dying)
            return
        self.worker.stop()
        await self.working
        await self.upkeep.end()
        await self._close()

    def _die(self) -> None:
        """Stop everything at once; nothing it still tries reaches the database."""
        self.working.cancel()
        self.upkeep.ticking.cancel()
        self._dying.append(asyncio.create_task(self._bury(), name=f"{self.name}.dies"))

    async def _bury(self) -> None:
        await asyncio.gather(self.working, return_exceptions=True)
        await self.worker.abandon()
        await self.upkeep.end()
        await self._close()

    async def _close(self) -> None:
        await self.waiter.close()
        await self.logins.close()
        await self._open.aclose()
        await self.database.close()
