"""One client's session: which accounts it sees, where it stands in each, and what waits to be sent."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from steelyard.access.model import Principal
from steelyard.core.clock import Clock
from steelyard.core.ids import AccountId, UserId
from steelyard.live.events import BALANCE_UPDATED, ERROR, BalanceUpdate, LiveEvent, json_event
from steelyard.live.figures import LiveFigures
from steelyard.live.limits import COMPLAINTS_MAX, Bucket, LiveLimits
from steelyard.live.outbox import OUTBOX_LIMIT, Outbox
from steelyard.live.store import Owner
from steelyard.live.transport import Ending, Positions, Transport
from steelyard.runtime.bus import BalanceEvent

ROOM_DEADLINE_S = 30.0
"""How long a client may take nothing while missed changes are replayed to it."""

HELD_BACK_MAX = 1_000
"""Steps kept of one account while its balance is read; beyond that it is read again."""

Told = tuple[BalanceEvent, tuple[LiveEvent, ...]]


class SessionEnded(Exception):
    """The session has ended; whatever was being done for it is over."""


@dataclass(slots=True, eq=False)
class Seat:
    """One account on one session. A listener of the account's watch."""

    session: "Session"
    account: AccountId
    position: int | None = None
    """The last `seq` put into the outbox; None until the account has been read."""
    sent: int | None = None
    """The position a client may name when it comes back: all up to it was handed to the transport."""
    posted: int = 0
    """At `position`, minor units; so is `held`."""
    held: int = 0
    currency: str = ""
    pace: Bucket | None = None
    is_overrun: bool = False
    held_back: list[Told] = field(default_factory=list)

    def tell(self, step: BalanceEvent, told_as: tuple[LiveEvent, ...]) -> None:
        """Hear of the next step: send it, or keep it until the account has been read."""
        if self.position is None:
            if len(self.held_back) < HELD_BACK_MAX:
                self.held_back.append((step, told_as))
            else:
                self.is_overrun = True
        else:
            self._tell(step, told_as)

    def tell_refusal(self, event: LiveEvent) -> None:
        """Hear of something that changed nothing; told only to those who know the balance."""
        if self.position is not None:
            self.session.put(event)

    def tell_put_back(self) -> None:
        """Hear that the database was put back to an earlier state: the balance is told anew."""
        self.session.acts.read_again(self)

    def begin(self, position: int, posted: int, held: int) -> None:
        """Know that everything up to `position` was put into the outbox; go on with what was kept meanwhile."""
        kept, self.held_back = self.held_back, []
        self.position, self.posted, self.held = position, posted, held
        for step, told_as in kept:
            self._tell(step, told_as)

    def must_read_again(self, head: int, told: int | None) -> bool:
        """Say whether steps after `head` have passed that were not kept: too many, or told before it was read.

        Args:
            head: The `seq` at which the account was read for this seat.
            told: The last `seq` the watch has told; another seat may have read the account later and begun there.
        """
        if self.is_overrun:
            return True
        if told is None or told <= head:
            return False
        return not self.held_back or (self.held_back[0][0].seq or 0) > head + 1

    def begin_again(self) -> None:
        """Go back to reading the account; what is told meanwhile is kept."""
        self.position, self.is_overrun, self.held_back = None, False, []

    def _tell(self, step: BalanceEvent, told_as: tuple[LiveEvent, ...]) -> None:
        assert step.seq is not None, "a refusal is no step"
        assert self.position is not None, "it has been read"
        if step.seq <= self.position:
            return
        self.position, self.posted, self.held = step.seq, step.posted, step.held
        for event in told_as:
            self.session.put(event)


class Acts(Protocol):
    """What a session asks of the gateway; see `steelyard.live.gateway`."""

    def begin(self, session: "Session") -> None:
        """Read the session's accounts and send where they stand."""
        ...

    async def hear(self, session: "Session", name: str, data: object) -> str | None:
        """Do what a client's event asks for."""
        ...

    def read_again(self, seat: Seat) -> None:
        """Tell an account's balance anew, whatever was told before."""
        ...

    def forget(self, session: "Session", ending: Ending) -> None:
        """Take the session off every list."""
        ...


@dataclass(slots=True, eq=False)
class Session:
    """One client. Made by `Gateway.open`; a transport uses `start`, `take`, `hear`, `complain` and `leave` alone.

    Nothing is sent before `start`: a transport calls it once the client knows that it is connected. From then on
    `transport.wake()` says when `take()` may have something.
    """

    principal: Principal
    user: UserId | None
    """Whose screen it is; None for a key without one, which is refused before."""
    transport_name: str
    credential: str = field(repr=False)
    expires_at: datetime | None
    transport: Transport
    acts: Acts
    clock: Clock
    limits: LiveLimits
    figures: LiveFigures
    wants_all: bool = False
    asked: Positions = field(default_factory=dict)
    """Positions the client came with."""
    seats: dict[AccountId, Seat] = field(default_factory=dict)
    ended: Ending | None = None
    is_started: bool = False
    was_warned: bool = False
    check_at_s: float = 0.0
    """When its credential is checked again, on the monotonic clock."""
    refused_in_row: int = 0
    outbox: Outbox = field(init=False)
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    """Work for this session that goes on beside; cancelled when it ends."""
    _complaints_in_row: int = 0
    _room: "asyncio.Future[None] | None" = None
    _pacing: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        """Make the outbox."""
        self.outbox = Outbox(self.transport.wake, self._overflow)

    @property
    def owner(self) -> Owner:
        """The room: tenant and user of the screen."""
        assert self.user is not None, "admitted"
        return self.principal.tenant, self.user

    @property
    def is_joining(self) -> bool:
        """Say whether its accounts are being read."""
        return bool(self.tasks)

    @property
    def caller(self) -> tuple[str, str, str | None]:
        """Who is counted against limits: a subject, on one user's screen."""
        return self.principal.tenant, self.principal.subject, self.user

    @property
    def sent_positions(self) -> Positions:
        """Where a client may resume, by account: all up to there was handed to the transport."""
        return {seat.account: seat.sent for seat in self.seats.values() if seat.sent is not None}

    # --- for transports ------------------------------------------------------------------------

    def start(self) -> None:
        """Know that the client is connected: missed changes, `balance_initial` and what follows may go out."""
        if not self.is_started and self.ended is None:
            self.is_started = True
            self.acts.begin(self)

    def take(self) -> LiveEvent | None:
        """Return the next event to send; None when nothing may be sent now (`wake` tells when that changes)."""
        head = self.outbox.peek()
        if head is None:
            return None
        if isinstance(head, BalanceUpdate) and not self._may_send(head):
            return None
        event = self.outbox.take()
        assert event is not None, "it was there"
        self.figures.sent[event.name] += 1
        self._note_sent(event)
        if len(self.outbox) <= OUTBOX_LIMIT // 4:
            self._make_room()
        return event

    async def hear(self, name: str, data: object) -> str | None:
        """Do what a client's event asks for. Call one after the other; never raises for what a client says.

        Args:
            name: The event, e.g. `get_current_balance`.
            data: What came with it as JSON values: an object, or None.
        Returns:
            The acknowledgement as JSON text (an object); None once the session has ended. What went wrong is also
            sent as an `error` event.
        """
        if self.ended is not None:
            return None
        return await self.acts.hear(self, name, data)

    def complain(self, code: str, message: str) -> None:
        """Tell the client of a frame that made no sense; after too many in a row the session ends (4400)."""
        self.figures.complaints += 1
        self._complaints_in_row += 1
        if self._complaints_in_row > COMPLAINTS_MAX:
            self.end(Ending.MALFORMED)
        else:
            self.put(json_event(ERROR, {"code": code, "message": message}))

    def leave(self) -> None:
        """Know that the client has gone. May be called more than once and after an ending."""
        self._finish(Ending.LEFT)

    # --- for the gateway -----------------------------------------------------------------------

    def end(self, ending: Ending) -> None:
        """End the session and have the transport tell why; does nothing when it has ended."""
        if self._finish(ending):
            self.transport.end(ending)

    def put(self, event: LiveEvent) -> None:
        """Add an event to what is sent."""
        if self.ended is None:
            self.outbox.put(event)
            if self._pacing is not None and len(self.outbox) > OUTBOX_LIMIT // 2:
                self.transport.wake()

    def understood(self) -> None:
        """Know that a frame made sense: earlier complaints count no more."""
        self._complaints_in_row = 0

    async def room(self) -> None:
        """Wait until most of the outbox is free.

        Raises:
            SessionEnded: There is nothing left to wait for; a client that takes nothing for 30 s is ended here.
        """
        if self.ended is None and len(self.outbox) > OUTBOX_LIMIT // 2:
            waiting = self._room or asyncio.get_running_loop().create_future()
            self._room = waiting
            try:
                async with asyncio.timeout(ROOM_DEADLINE_S):
                    await asyncio.shield(waiting)  # others may wait for it too
            except TimeoutError:
                self.end(Ending.TOO_SLOW)
        if self.ended is not None:
            raise SessionEnded

    def _finish(self, ending: Ending) -> bool:
        if self.ended is not None:
            return False
        self.ended = ending
        self.figures.merged += self.outbox.merged
        self.outbox.clear()
        self._make_room()
        if self._pacing is not None:
            self._pacing.cancel()
        self.acts.forget(self, ending)
        return True

    def _make_room(self) -> None:
        waiting, self._room = self._room, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _overflow(self) -> None:
        self.end(Ending.TOO_SLOW)

    def _may_send(self, update: BalanceUpdate) -> bool:
        """Say whether a balance may be sent now; else see to it that the transport is woken when it may.

        What is behind it waits too, so that it comes before the transactions it tells of. With the outbox half full
        the pace gives way: a client that reads must not lose its connection to it.
        """
        assert update.account is not None, "an update is of an account"
        seat = self.seats.get(update.account)
        if seat is None or len(self.outbox) > OUTBOX_LIMIT // 2:
            return True
        if self._pacing is not None:
            return False
        if seat.pace is None:
            seat.pace = Bucket(self.limits.updates, self.limits.updates_per_s)
        wait_s = seat.pace.wait_s(self.clock.monotonic_s())
        if wait_s <= 0:
            return True
        self._pacing = asyncio.get_running_loop().call_later(wait_s, self._paced)
        return False

    def _paced(self) -> None:
        self._pacing = None
        self.transport.wake()

    def _note_sent(self, event: LiveEvent) -> None:
        if event.account is None or event.seq is None:
            return
        seat = self.seats.get(event.account)
        if seat is None:
            return
        if event.name == BALANCE_UPDATED and isinstance(event, BalanceUpdate):
            # Merged, it may run ahead of transactions that still wait.
            if event.moves_position and event.prev_seq == seat.sent:
                seat.sent = event.seq
        elif event.moves_position and (seat.sent is None or event.seq > seat.sent):
            seat.sent = event.seq
