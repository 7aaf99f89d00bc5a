"""One Engine.IO socket as the gateway's transport: its session, its bounds, and every way it can end."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from steelyard.live.engine_frames import (
    CLOSE_FRAME,
    DISCONNECT_FRAME,
    EVENT_AFTER,
    EVENT_BEFORE,
    EVENT_BETWEEN,
    MalformedFrame,
    check_frame,
    error_frame,
)
from steelyard.live.engine_queue import EngineQueue, ReadyPacket, Source
from steelyard.live.engine_socket import EngineWebSocket
from steelyard.live.events import LiveEvent
from steelyard.live.limits import Bucket
from steelyard.live.pump import Pump
from steelyard.live.transport import Ending

PACKETS_AT_ONCE = 150
PACKETS_PER_S = 25.0
"""Packets of one socket, pongs included: above the gateway's limit of messages, which is told kindly first."""

REASONS = {
    Ending.LEFT: "the connection is ended",
    Ending.SHUTTING_DOWN: "this server is stopping; connect again",
    Ending.FAILED: "the server failed; connect again",
    Ending.MALFORMED: "a frame was malformed or too large; the connection is closed",
    Ending.UNAUTHENTICATED: "the token has expired or was revoked; connect with a new one",
    Ending.FORBIDDEN: "this token may no longer see this; the connection is ended",
    Ending.TOO_SLOW: "this client reads too slowly; connect again to resume",
    Ending.TOO_MANY: "too many messages; the connection is closed",
}
_LEAVES_OPEN = frozenset((Ending.UNAUTHENTICATED, Ending.FORBIDDEN))
_COMES_BACK = frozenset((Ending.SHUTTING_DOWN, Ending.FAILED, Ending.TOO_SLOW))
"""Endings after which clients connect again by themselves: their namespace is not disconnected first."""


class Session(Source, Protocol):
    """What is used of `steelyard.live.session.Session`."""

    def start(self) -> None:
        """See there."""
        ...

    async def hear(self, name: str, data: object) -> str | None:
        """See there."""
        ...

    def complain(self, code: str, message: str) -> None:
        """See there."""
        ...

    def put(self, event: LiveEvent) -> None:
        """See there."""
        ...

    def end(self, ending: Ending) -> None:
        """See there."""
        ...

    def leave(self) -> None:
        """See there."""
        ...


class Engine(Protocol):
    """What a connection asks of the adapter it belongs to."""

    def forget_client(self, connection: "EngineConnection") -> None:
        """Take it off the register of the namespace."""
        ...

    def close_socket(self, connection: "EngineConnection") -> None:
        """Have python-engineio close its socket, without waiting."""
        ...


def _message_of(event: LiveEvent) -> dict[str, Any]:
    text = event.frame(EVENT_BEFORE, EVENT_BETWEEN, EVENT_AFTER)
    return {"type": "websocket.send", "text": text}


@dataclass(slots=True, eq=False)
class EngineConnection:
    """A client's Engine.IO socket. To the gateway it is a `Transport`, to its WebSocket the `Owner`."""

    engine: Engine
    now_s: Callable[[], float]
    """The monotonic clock."""
    queue: EngineQueue = field(init=False)
    socket_id: str = ""
    origin: str | None = None
    host: str | None = None
    token: str | None = None
    """Of the query; the one of `auth` comes before it."""
    session: Session | None = None
    is_connecting: bool = False
    was_connected: bool = False
    is_posting: bool = False
    driver: EngineWebSocket | None = None
    idle_since_s: float = 0.0
    """Since when it has no session, on the monotonic clock."""
    ended_at_s: float | None = None
    budget: Bucket = field(default_factory=lambda: Bucket(PACKETS_AT_ONCE, PACKETS_PER_S))
    _tasks: "set[asyncio.Task[Any]]" = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make the queue."""
        self.queue = EngineQueue(self, self._overflow, self._make_pump)
        self.idle_since_s = self.now_s()

    @property
    def has_ended(self) -> bool:
        """Whether its end was decided; packets from the client count no more."""
        return self.ended_at_s is not None

    # Transport

    def wake(self) -> None:
        """Let the writer have what waits."""
        self.queue.wake()

    def end(self, ending: Ending) -> None:
        """Tell the client why and end: the namespace for matters of the token, else the socket."""
        self._let_go()
        if self.was_connected:
            self._say(error_frame(ending.word, REASONS[ending]))
            if ending not in _COMES_BACK:
                self._say(DISCONNECT_FRAME)
        self.engine.forget_client(self)
        if ending not in _LEAVES_OPEN:
            self.close()

    # Owner

    def is_admitted(self, frame: str | None) -> bool:
        """Whether a frame of the client may go on: of a known type, small, not one of a flood."""
        if self.has_ended:
            return False
        try:
            check_frame(frame)
        except MalformedFrame:
            self.end_all(Ending.MALFORMED)
            return False
        if self.budget.wait_s(self.now_s()) > 0:
            self.end_all(Ending.TOO_MANY)
            return False
        return True

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """Know a timer of the socket: it ends with it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The adapter

    def open(self) -> None:
        """Know that the client has its CONNECT packet: the session's events may follow it."""
        self.is_connecting = False
        if self.session is not None and not self.has_ended:
            self.was_connected = True
            self.queue.attach(self.session)
            self.session.start()

    def end_all(self, ending: Ending) -> None:
        """End the session, if there is one, and the socket."""
        if self.session is not None:
            self.session.end(ending)
        if not self.has_ended:
            self.end(ending)

    def leave(self) -> None:
        """Know that the client has left the namespace, or altogether."""
        session = self.session
        self._let_go()
        if session is not None:
            session.leave()

    def close(self) -> None:
        """Close the socket: what the protocol has to say is still sent, events are not."""
        if self.has_ended:
            return
        self._say(CLOSE_FRAME)
        self.note_closed()
        self.engine.close_socket(self)

    def note_closed(self) -> None:
        """Know that the socket is closed, or about to be: nothing more is taken in or said, its timers end."""
        if self.ended_at_s is None:
            self.ended_at_s = self.now_s()
        self.leave()
        self.queue.put_nowait(None)
        for task in tuple(self._tasks):
            task.cancel()

    def _make_pump(self, take: Callable[[], LiveEvent | None]) -> Pump | None:
        driver = self.driver
        if driver is None or not driver.is_serving:
            return None
        return Pump(driver.write, take, _message_of, self.leave)

    def _let_go(self) -> None:
        self.queue.detach()
        self.session = None
        self.idle_since_s = self.now_s()

    def _say(self, frame: str) -> None:
        self.queue.put_nowait(ReadyPacket(frame))

    def _overflow(self) -> None:
        self.end_all(Ending.TOO_SLOW)
