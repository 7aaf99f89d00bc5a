"""What an Engine.IO socket sends next: a few packets of the protocol itself, then events, taken from the session.

Stands where python-engineio keeps an unbounded `asyncio.Queue`. No events are held here: a socket that can send takes
them from the session's outbox, one that cannot leaves them there, where they are merged or end the session.

A poll takes what waits when it comes. A WebSocket gets a pump as soon as python-engineio's writer has sent what was
before: it then sends everything at once, inside `wake`, and the writer is left with pings and the end. Which calls of python-engineio meet this class is written down in docs/decisions/0011-socket-io-seam.md.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from engineio import packet as engine_packet

from steelyard.live.engine_frames import EVENT_AFTER, EVENT_BEFORE, EVENT_BETWEEN
from steelyard.live.events import LiveEvent
from steelyard.live.pump import Pump

CONTROL_LIMIT = 16
"""Packets of the protocol that may wait: open, ping, connect, answers to bad packets, close."""
DRAIN_LIMIT = 128
"""Packets one poll takes at most: all that a client which stops polling has outside its outbox."""


class Source(Protocol):
    """Where events come from: a session."""

    def take(self) -> LiveEvent | None:
        """Return the next event to send, None where there is none now."""
        ...


@dataclass(slots=True, frozen=True, eq=False)
class ReadyPacket:
    """A packet whose frame is written already, with what python-engineio's writer and payload ask of one."""

    text: str

    def encode(self, b64: bool = False) -> str:
        """Return the frame; `b64` concerns binary packets only."""
        return self.text


@dataclass(slots=True, eq=False)
class ReadyEvent(LiveEvent):
    """A whole packet among events, such as an answer that keeps its place behind the events put before it."""

    def frame(self, before: str, between: str, after: str) -> str:
        """Return the payload: the whole frame, this client's alone."""
        return self.payload


@dataclass(slots=True, eq=False)
class EngineQueue:
    """The queue of one Engine.IO socket, with the calls of `asyncio.Queue` that python-engineio makes.

    `overflow` is called once, when more than `CONTROL_LIMIT` protocol packets wait.
    """

    owner: Any
    """The connection of the socket; python-engineio's side finds it by this."""
    overflow: Callable[[], None]
    make_pump: Callable[[Callable[[], LiveEvent | None]], Pump | None]
    """Called when the writer has sent all there was; returns a pump where the socket is a WebSocket."""
    _control: deque[Any] = field(default_factory=deque)
    _source: Source | None = None
    _pump: Pump | None = None
    _beats: deque[Any] = field(default_factory=deque)
    """With a pump: pings, which python-engineio's writer sends, so that it never waits in vain."""
    _is_over: bool = False
    _is_full: bool = False
    _waiting: "asyncio.Future[Any] | None" = None
    _left: int = 0

    # What the gateway's side calls.

    def attach(self, source: Source) -> None:
        """Take events from here, once the client has its CONNECT packet."""
        self._source = source
        self.wake()

    def detach(self) -> None:
        """Take no more events."""
        self._source = None

    def wake(self) -> None:
        """Send what waits, or hand the next packet to the poll that waits for one."""
        if self._pump is not None:
            self._pump.wake()
        else:
            self._hand_out()

    def _hand_out(self) -> None:
        waiting = self._waiting
        if waiting is None or waiting.done():
            return
        try:
            packet = self._take()
        except asyncio.QueueEmpty:
            return
        self._waiting = None
        waiting.set_result(packet)

    # What python-engineio calls.

    async def put(self, packet: Any) -> None:
        """Take in a packet of the protocol, or None: the end. After the end nothing is taken in."""
        self.put_nowait(packet)

    def put_nowait(self, packet: Any) -> None:
        """Do as `put`."""
        if packet is None:
            self._is_over = True
            self.detach()
            self._hand_out()
        elif self._pump is not None and getattr(packet, "packet_type", None) == engine_packet.PING:
            self._beats.append(packet)
            self._hand_out()
        elif self._is_over or self._is_full:
            return
        elif len(self._control) >= CONTROL_LIMIT:
            self._is_full = True
            self.overflow()
            return
        else:
            self._control.append(packet)
            self.wake()

    def get(self) -> "asyncio.Future[Any]":
        """Return a future of the next packet. Only one reader may wait; a second one gets `TimeoutError`.

        A future and no coroutine: `wait_for` then makes no task for it.
        """
        self._left = DRAIN_LIMIT
        future = asyncio.get_running_loop().create_future()
        if self._waiting is not None and not self._waiting.done():
            future.set_exception(TimeoutError("somebody waits for the packets of this socket"))
            return future
        try:
            future.set_result(self._take())
        except asyncio.QueueEmpty:
            self._waiting = future
            if self._pump is None:
                self._pump = self.make_pump(self._take_event)
        return future

    def get_nowait(self) -> Any:
        """Return the next packet.

        Raises:
            asyncio.QueueEmpty: Nothing waits, or `DRAIN_LIMIT` packets were handed out since the last `get`.
        """
        if self._left <= 0:
            raise asyncio.QueueEmpty
        return self._take()

    def task_done(self) -> None:
        """Nothing: nobody waits for packets to be sent."""

    async def join(self) -> None:
        """Return at once: a socket that is to be closed is not waited for."""

    def _take(self) -> Any:
        """Return the next packet for a poll, or for the writer."""
        self._left -= 1
        if self._pump is not None:
            if self._beats:
                return self._beats.popleft()
        elif self._control:
            packet = self._control.popleft()
            if getattr(packet, "packet_type", None) == engine_packet.NOOP:
                self._left = 0  # it ends a poll before an upgrade: events wait for the WebSocket
            return packet
        if self._is_over:
            return None
        event = self._source.take() if self._pump is None and self._source is not None else None
        if event is None:
            raise asyncio.QueueEmpty
        return ReadyPacket(event.frame(EVENT_BEFORE, EVENT_BETWEEN, EVENT_AFTER))

    def _take_event(self) -> LiveEvent | None:
        """Return the next thing for the pump."""
        if self._control:
            return ReadyEvent("packet", self._control.popleft().encode())
        return self._source.take() if self._source is not None else None
