"""Runs a day: people log in, balances move, the bank fails, servers die, and in the end everything is counted."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from steelyard.access.tenants import create_tenant
from steelyard.access.users import NewUser, upsert_users
from steelyard.balances.store import open_book
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.mirror.model import NewMirroredAccount
from steelyard.mirror.store import set_context
from steelyard.providers.contract import Limits
from steelyard.reconcile.operations import Reconcile
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.database import Database
from steelyard.sync.enroll import Enrollment, allow_requests, enroll_accounts
from steelyard.testing.one_at_a_time import Turns
from steelyard.testing.simulated_day.evidence import Evidence, SeenLogin, read_books
from steelyard.testing.simulated_day.plan import (
    Accident,
    DayPlan,
    list_accidents,
    list_incidents,
)
from steelyard.testing.simulated_day.server import BANK, DayParts, Server
from steelyard.testing.simulated_day.town import Town
from steelyard.testing.simulated_day.trace import Trace
from steelyard.testing.simulated_day.upkeep import UpkeepParts, put_schedules
from steelyard.testing.virtual_time import VirtualClock, VirtualTimeLoop, run_in_virtual_time

TOLD_EVERY_S = 3_600.0
TO_WALLET_AT = 0.35
REQUESTS_AFTER_MOVES = 0.3


@dataclass(frozen=True, slots=True)
class Told:
    """How far a day is."""

    virtual_s: float
    logins: int
    syncs: int
    changes: int


@dataclass(frozen=True, slots=True)
class Staging:
    """What a day runs with besides its plan.

    Args:
        url: A migrated, empty database, as the product logs in.
        write: Told of each line of the trace.
        report: Told how far it is, each virtual hour.
        rewrite: Changes SQL before it is sent: plants faults.
        alter: Changes what servers work with: plants faults.
    """

    url: str = field(repr=False)
    write: Callable[[str], None] = lambda _: None
    report: Callable[[Told], None] = lambda _: None
    rewrite: Callable[[str], str] | None = None
    alter: Callable[[DayParts], DayParts] = lambda parts: parts


def run_day(plan: DayPlan, staging: Staging) -> Evidence:
    """Run a day in virtual time and return what came of it; the same plan gives the same trace."""

    async def main(loop: VirtualTimeLoop) -> Evidence:
        turns = Turns(staging.url, plan.chance("turns"), plan.answer_s, rewrite=staging.rewrite)
        await turns.open()
        try:
            return await _Day(plan, staging, turns, VirtualClock(loop)).run()
        finally:
            await turns.close()

    return run_in_virtual_time(main)


class _Day:
    """One day under way."""

    def __init__(self, plan: DayPlan, staging: Staging, turns: Turns, clock: VirtualClock) -> None:
        self.plan, self.staging, self.turns, self.clock = plan, staging, turns, clock
        self.trace = Trace(clock.monotonic_s, staging.write)
        self.town = Town.build(plan, clock, self.trace)
        self.servers: list[Server] = []
        self.gone: list[Server] = []
        self.begun = 0
        self.logins: list[SeenLogin] = []
        self.accidents: list[tuple[float, float]] = []
        self.serving: set[asyncio.Task[None]] = set()
        parts = DayParts(plan, staging.url, clock, turns, self.town, self.trace)
        self.parts = staging.alter(parts)

    async def run(self) -> Evidence:
        """Live the day, let it settle, and read what came of it."""
        office = self.turns.process("office")
        database = await office.open_database(self.staging.url, size=2)
        await self._found(database)
        self.began_s = self.clock.monotonic_s()
        self.turns.observe = self.trace.see
        bus, look_s = InProcessBus(), self.plan.look_every_s
        cache = InProcessCache(self.clock)
        await put_schedules(UpkeepParts(database, self.clock, bus, cache, look_s))
        for _ in range(self.plan.processes):
            self.servers.append(await self._begin_server())
        parts = [
            asyncio.create_task(part, name="kit.day")
            for part in (
                self._let_log_in(),
                self._let_move(),
                self._let_go_wrong(),
                self._let_servers_suffer(),
                self._let_turn_to_wallets(database),
                self._tell(),
            )
        ]
        await asyncio.gather(*parts)
        await self._until(self.plan.length_s + self.plan.settle_s)
        while self.serving:
            await asyncio.wait(self.serving)
        for server in (*self.servers, *self.gone):
            await server.end()
        self.turns.observe, end = None, self.clock.now()
        report = await Reconcile(database, DEFAULT_TENANT, self.clock).verify()
        books = await read_books(database)
        await database.close()
        return Evidence(
            self.plan,
            self.clock.beginning,
            self.town,
            self.trace,
            self.logins,
            self.accidents,
            books,
            report,
            end,
            self.turns.deadlocks,
            self.turns.statements,
        )

    async def _found(self, database: Database) -> None:
        """Make tenant, users, accounts and budget."""
        now, town = self.clock.now(), self.town
        await create_tenant(database, DEFAULT_TENANT, name="Day", time_zone="UTC", now=now)
        accounts = [
            NewMirroredAccount(
                user, BANK, number, town.currency, is_primary=number == town.numbers_of(user)[0]
            )
            for number, user in town.owners.items()
        ]
        limits = Limits(self.plan.requests_per_s, self.plan.in_flight)
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            await open_book(uow, town.currency, now=now)
            await upsert_users(uow, [NewUser(user) for user in town.users], now=now)
            interval = timedelta(seconds=self.plan.interval_s)
            await enroll_accounts(uow, accounts, Enrollment(BANK, interval), now=now)
            await set_context(uow, sorted(town.wallet_since), "WALLET")
            await allow_requests(uow, BANK, limits, now=now)

    async def _begin_server(self) -> Server:
        self.begun += 1
        server = await Server.begin(self.parts, f"server-{self.begun}")
        self.trace.add("begins", server.name)
        return server

    async def _until(self, at_s: float) -> None:
        """Wait until a second of the day."""
        await asyncio.sleep(max(0.0, self.began_s + at_s - self.clock.monotonic_s()))

    def _serve(self, work: "asyncio.Task[None]") -> None:
        self.serving.add(work)
        work.add_done_callback(self.serving.discard)

    async def _let_log_in(self) -> None:
        chance = self.plan.chance("who logs in")
        for at_s in self.plan.moments("logins", self.plan.logins, by_hour=True):
            await self._until(at_s)
            user = chance.choice(self.town.users)
            server = self._any_server(chance.random())
            self._serve(asyncio.create_task(self._log_in(server, user), name="kit.login"))

    async def _log_in(self, server: Server, user: UserId) -> None:
        begin_s, accidents = self.clock.monotonic_s(), len(self.accidents)
        self.trace.add("login", server.name, user)
        result, error = None, None
        try:
            result = await server.log_in(user)
        except DatabaseUnavailable as refused:
            error = refused.code
        end_s = self.clock.monotonic_s()
        cut_off = not server.is_up or len(self.accidents) != accidents
        seen = SeenLogin(user, server.name, begin_s, end_s, result, error, cut_off)
        self.logins.append(seen)
        told = error if result is None else (result.ok, result.balance, result.reason)
        self.trace.add("answer", server.name, user, f"{end_s - begin_s:.6f}", told)

    def _any_server(self, share: float) -> Server:
        up = [server for server in self.servers if server.is_up]
        return up[int(share * len(up))]

    async def _let_move(self) -> None:
        chance = self.plan.chance("moves")
        for at_s in self.plan.moments("moves", self.plan.moves):
            await self._until(at_s)
            user = self.town.move_one(chance)
            self.trace.add("move", user)
            wants_sync, share = chance.random() < REQUESTS_AFTER_MOVES, chance.random()
            if wants_sync:
                work = self._ask_after_move(self._any_server(share), user)
                self._serve(asyncio.create_task(work, name="kit.request"))

    async def _ask_after_move(self, server: Server, user: UserId) -> None:
        try:
            raised = await server.queue_sync(user, self.clock)
        except DatabaseUnavailable as refused:
            self.trace.add("asked", server.name, user, refused.code)
        else:
            self.trace.add("asked", server.name, user, raised.run, raised.reason)

    async def _let_go_wrong(self) -> None:
        for incident in list_incidents(self.plan):
            await self._until(incident.begin * self.plan.length_s)
            self.trace.add("incident", incident.name)
            self.town.begin(incident)
            await self._until(incident.end * self.plan.length_s)
            self.town.end()
            self.trace.add("incident", "over")

    async def _let_servers_suffer(self) -> None:
        for accident in list_accidents(self.plan):
            await self._until(accident.at * self.plan.length_s)
            await self._suffer(accident)

    async def _suffer(self, accident: Accident) -> None:
        server, begin_s = self.servers[accident.server], self.clock.monotonic_s()
        happened = asyncio.Event()

        def happen() -> None:
            self.trace.add("killed" if accident.is_kill else "stopped", server.name)
            self.accidents.append((begin_s, begin_s))
            (server.process.kill if accident.is_kill else server.process.stop)()
            happened.set()

        server.process.after(accident.statements, happen)
        await happened.wait()
        await asyncio.sleep(accident.for_s)
        if accident.is_kill:
            self.gone.append(server)
            self.servers[accident.server] = await self._begin_server()
        else:
            server.process.resume()
            self.trace.add("resumed", server.name)
        self.accidents[-1] = (begin_s, self.clock.monotonic_s())

    async def _let_turn_to_wallets(self, database: Database) -> None:
        """Let some users leave the core bank in the middle of the day."""
        await self._until(TO_WALLET_AT * self.plan.length_s)
        chance = self.plan.chance("wallets")
        others = [user for user in self.town.users if user not in self.town.wallet_since]
        leaving = sorted(chance.sample(others, len(others) // 30))
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            await set_context(uow, leaving, "WALLET")
        for user in leaving:
            self.town.wallet_since[user] = self.clock.monotonic_s()
            self.trace.add("wallet", user)

    async def _tell(self) -> None:
        at_s = 0.0
        while at_s < self.plan.length_s:
            at_s = min(at_s + TOLD_EVERY_S, self.plan.length_s)
            await self._until(at_s)
            counts = self.trace.counts
            self.staging.report(Told(at_s, len(self.logins), counts["finish"], counts["change"]))
