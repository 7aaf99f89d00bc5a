"""The gateway: who is connected, what each is told, and who may come in."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import structlog

from steelyard.access.authenticate import Authenticator
from steelyard.balances.read import BalanceReader
from steelyard.core.clock import Clock
from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.live.admit import Origins, admit
from steelyard.live.client_events import do_client_event
from steelyard.live.events import refusal_of
from steelyard.live.figures import LiveFigures
from steelyard.live.heal import Healer
from steelyard.live.join import Join
from steelyard.live.limits import LiveLimits, MessageLimit
from steelyard.live.session import Seat, Session, SessionEnded
from steelyard.live.store import Owner, Place
from steelyard.live.sweep import Sweep
from steelyard.live.transport import Ending, Hello, Refused, Transport
from steelyard.live.watch import Watch
from steelyard.runtime.bus import BalanceEvent, ChangeBus
from steelyard.runtime.database import Database
from steelyard.runtime.errors_out import report_error
from steelyard.runtime.repeat import repeat

_log = structlog.get_logger()
INBOX_MAX = 50_000
"""Events the bus may be ahead of the gateway; beyond that they are dropped, and the sweep reads the journal."""

UNKNOWN = 2**63
"""A position no account has."""

SLICE = 64
"""Events told before the event loop may write them to sockets."""


@dataclass(frozen=True, slots=True)
class LivePorts:
    """What the gateway works with."""

    database: Database
    reader: BalanceReader
    authenticator: Authenticator
    bus: ChangeBus
    clock: Clock


@dataclass(slots=True, eq=False)
class Gateway:
    """All sessions of this process. `run` begins its work, `close` ends it and every session."""

    ports: LivePorts
    limits: LiveLimits = field(default_factory=LiveLimits)
    origins: Origins = field(default_factory=Origins)
    figures: LiveFigures = field(default_factory=LiveFigures)
    rooms: dict[Owner, set[Session]] = field(default_factory=dict)
    """Sessions by (tenant, user) of their screen."""
    watches: dict[Place, Watch] = field(default_factory=dict)
    is_closing: bool = False
    messages: MessageLimit = field(init=False)
    join: Join = field(init=False)
    healer: Healer = field(init=False)
    sweep: Sweep = field(init=False)
    _callers: Counter[tuple[str, str, str | None]] = field(default_factory=Counter)
    _count: int = 0
    _inbox: deque[BalanceEvent] = field(default_factory=deque)
    _is_draining: bool = False
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _unsubscribe: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        """Put the parts together."""
        ports = self.ports
        self.messages = MessageLimit(self.limits, ports.clock)
        self.healer = Healer(ports.database, self.figures, self.watches.get)
        self.join = Join(ports.database, ports.reader, self.watch_of, self.limits.accounts)
        self.sweep = Sweep(self)

    # --- life ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Listen on the bus and begin to heal and sweep."""
        self._unsubscribe = self.ports.bus.subscribe(self.hear_bus)
        for name, act, every_s in (
            ("live healing", self.healer.turn, 0.01),
            ("live sweep", self.sweep.turn, 0.05),
            ("live token ends", self.sweep.end_expired, 0.5),
        ):
            self._keep(repeat(name, act, every_s=every_s))

    async def close(self) -> None:
        """Take in nobody any more, end every session with SHUTTING_DOWN, and stop. May be called again."""
        self.is_closing = True
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        for session in self.sessions():
            session.end(Ending.SHUTTING_DOWN)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- sessions ------------------------------------------------------------------------------

    async def open(self, hello: Hello, transport: Transport) -> Session:
        """Let a client in.

        The session sends nothing until the transport calls `session.start()`, which it does once the client has
        been told that it is connected. The transport then sends what `session.take()` gives whenever
        `transport.wake()` was called, hands client events to `session.hear`, and calls `session.leave()` when the
        client has gone.

        Raises:
            Refused: It may not come in; `ending` says why, `str()` tells it to people.
        """
        try:
            self._check_room()
            admitted = await admit(
                hello, self.ports.authenticator, self.ports.clock, origins=self.origins
            )
            self._check_room()
            session = Session(
                principal=admitted.principal,
                user=admitted.user,
                transport_name=hello.transport,
                credential=admitted.credential,
                expires_at=admitted.authentication.expires_at,
                transport=transport,
                acts=self,
                clock=self.ports.clock,
                limits=self.limits,
                figures=self.figures,
                wants_all=admitted.wants_all,
                asked=admitted.positions,
            )
            if self._callers[session.caller] >= self.limits.connections_per_user:
                raise Refused(
                    Ending.TOO_MANY,
                    why=f"{self.limits.connections_per_user} connections of this user are open already",
                )
        except Refused as refused:
            self.figures.endings[refused.ending.word] += 1
            raise
        self._add(session)
        return session

    def sessions(self) -> list[Session]:
        """Return every session."""
        return [session for room in self.rooms.values() for session in room]

    @property
    def count(self) -> int:
        """How many sessions are open."""
        return self._count

    def watch_of(self, place: Place) -> Watch:
        """Return the watch of an account; a new one where nobody listened."""
        found = self.watches.get(place)
        if found is None:
            found = self.watches[place] = Watch(place, self.healer.want)
        return found

    def _check_room(self) -> None:
        if self.is_closing:
            raise Refused(Ending.SHUTTING_DOWN, why="this process is shutting down")
        if self._count >= self.limits.connections:
            raise Refused(Ending.TOO_MANY, why="this process has all the connections it may have")

    def _add(self, session: Session) -> None:
        self._count += 1
        self._callers[session.caller] += 1
        self.figures.sessions[session.transport_name] += 1
        self.rooms.setdefault(session.owner, set()).add(session)
        self.sweep.schedule_check(session)

    # --- what a session asks -------------------------------------------------------------------

    def begin(self, session: Session) -> None:
        """Read the session's accounts and send where they stand."""
        self.spawn(session, self.join.begin(session))

    def bring(self, session: Session, account: AccountId) -> None:
        """Show one more account of the session's user."""
        if account not in session.seats and len(session.seats) < self.limits.accounts:
            self.spawn(session, self.join.bring(session, account))

    async def hear(self, session: Session, name: str, data: object) -> str | None:
        """Do what a client's event asks for."""
        return await do_client_event(self, session, name, data)

    def leave_account(self, session: Session, account: AccountId) -> None:
        """Show an account no more."""
        seat = session.seats.pop(account, None)
        place = (session.owner[0], account)
        watch = self.watches.get(place)
        if seat is not None and watch is not None:
            watch.listeners.discard(seat)
            if not watch.listeners:
                del self.watches[place]

    def read_again(self, seat: Seat) -> None:
        """Tell an account's balance anew, whatever was told before."""
        session = seat.session
        self.leave_account(session, seat.account)
        session.asked[seat.account] = UNKNOWN
        self.bring(session, seat.account)

    def forget(self, session: Session, ending: Ending) -> None:
        """Take the session off every list."""
        for account in list(session.seats):
            self.leave_account(session, account)
        room = self.rooms.get(session.owner)
        if room is not None and session in room:
            room.discard(session)
            if not room:
                del self.rooms[session.owner]
            self._count -= 1
            self.figures.sessions[session.transport_name] -= 1
            self.figures.endings[ending.word] += 1
            self._callers[session.caller] -= 1
            if self._callers[session.caller] <= 0:
                del self._callers[session.caller]
                self.messages.forget(session.caller)
        for task in tuple(session.tasks):
            task.cancel()

    def spawn(self, session: Session, work: Coroutine[object, object, None]) -> None:
        """Work for a session beside everything else, until it is done or the session ends."""
        if session.ended is not None or self.is_closing:
            work.close()
            return
        task = self._keep(self._guarded(session, work))
        session.tasks.add(task)
        task.add_done_callback(session.tasks.discard)

    # --- what the bus brings -------------------------------------------------------------------

    def hear_bus(self, event: BalanceEvent) -> None:
        """Take in what the bus brings; told from the event loop, so that whoever publishes does not wait."""
        if len(self._inbox) >= INBOX_MAX:
            self._inbox.clear()
            self.figures.overruns += 1
            self.sweep.hurry()
        self._inbox.append(event)
        if not self._is_draining:
            self._is_draining = True
            asyncio.get_running_loop().call_soon(self._drain)

    def suspect(self, tenant: TenantId, account: AccountId | None, user: UserId | None) -> None:
        """Look at an account soon, or at all that a user's sessions show: a message of it could not be believed."""
        if account is not None:
            if (tenant, account) in self.watches:
                self.sweep.suspect((tenant, account))
        elif user is not None:
            for session in self.rooms.get((tenant, user), ()):
                for shown in session.seats:
                    self.sweep.suspect((tenant, shown))

    def resumed(self) -> None:
        """Look at every account soon: a messenger was away and has come back."""
        self.sweep.hurry()

    def _drain(self) -> None:
        try:
            for _ in range(min(SLICE, len(self._inbox))):
                self._tell(self._inbox.popleft())
        finally:
            if self._inbox:
                asyncio.get_running_loop().call_soon(self._drain)
            else:
                self._is_draining = False

    def _tell(self, event: BalanceEvent) -> None:
        watch = self.watches.get((event.tenant, event.account))
        if watch is None:
            if event.user is not None and (event.tenant, event.user) in self.rooms:
                self.sweep.look_for_accounts((event.tenant, event.user))
        elif event.seq is not None:
            if watch.hear(event):
                lag = self.ports.clock.now() - event.at
                self.figures.note_lag(lag.total_seconds())
        elif (told := refusal_of(event)) is not None:
            watch.tell_refusal(told)

    # --- tasks ---------------------------------------------------------------------------------

    def _keep(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, session: Session, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except SessionEnded:
            return
        # The edge of a task: nobody above could tell the client.
        except Exception as error:
            self.figures.failures += 1
            _log.error("live.failed", transport=session.transport_name, exc_info=error)
            report_error(error, transport=session.transport_name)
            session.end(Ending.FAILED)
