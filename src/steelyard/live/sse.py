"""Server-sent events at `/balance/stream`: the same events for clients that have nothing but HTTP."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec
from starlette.types import Receive, Send

from steelyard.access.roles import Permission
from steelyard.core.errors import Retry, SteelyardError
from steelyard.live.cut_connection import abort_connection
from steelyard.live.events import ERROR, LiveEvent, json_event
from steelyard.live.gateway import Gateway
from steelyard.live.pump import Message, Pump
from steelyard.live.session import Session
from steelyard.live.transport import Ending, Hello, Positions, Refused
from steelyard.live.websocket import CLOSE_DEADLINE_S, hello_of
from steelyard.runtime.hot_routes import (
    Answer,
    Headers,
    HotRequest,
    HotRoute,
    Operation,
    Stream,
)

STREAM_PATH: Final = "/balance/stream"
HEARTBEAT_S: Final = 20.0
RETRY_MS: Final = 2_000
"""How long a browser waits before it comes back."""

_HEARTBEAT = LiveEvent("", "")
_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),  # proxies that would collect events let them through
)


class StreamRefused(SteelyardError):
    """The gateway does not open this stream."""


class _MalformedHello(StreamRefused):
    code = "invalid_input"


class _NotKnown(StreamRefused):
    code = "unauthenticated"


class _NotAllowed(StreamRefused):
    code = "forbidden"


class _TooMany(StreamRefused):
    code = "rate_limited"
    retry = Retry.LATER


class _NotNow(StreamRefused):
    code = "overloaded"
    retry = Retry.LATER


_ERRORS: Final[Mapping[Ending, type[StreamRefused]]] = MappingProxyType(
    {
        Ending.MALFORMED: _MalformedHello,
        Ending.UNAUTHENTICATED: _NotKnown,
        Ending.FORBIDDEN: _NotAllowed,
        Ending.TOO_MANY: _TooMany,
    }
)


class _Live(Protocol):
    @property
    def gateway(self) -> Gateway: ...


class StreamServices(Protocol):
    """What the route needs of the process."""

    @property
    def live(self) -> _Live: ...


async def stream_balance(request: HotRequest) -> Answer | Stream:
    """Stream the events of one user's screen as server-sent events.

    The token comes as `Authorization: Bearer` or, from browsers' `EventSource`, as `?token=`. `id` is where the
    client stands (`accountId:seq`, joined by commas); it comes back with `Last-Event-ID` and what was missed is told
    again. Answers go on until the client leaves; a comment is sent every 20 s.
    """
    services: StreamServices = request.services
    try:
        hello = _hello_of(request)
        stream = EventStream(hello.origin)
        session = await services.live.gateway.open(hello, stream)
    except Refused as refused:
        if refused.error is not None:
            raise refused.error from None
        raise _ERRORS.get(refused.ending, _NotNow)(str(refused)) from None
    request.principal = session.principal
    stream.session = session
    return Stream(200, stream.run)


def _hello_of(request: HotRequest) -> Hello:
    hello = hello_of(request.query, "sse", request.headers)
    changes: dict[str, object] = {}
    scheme, _, credential = (request.authorization or "").partition(" ")
    if scheme.lower() == "bearer":
        changes["token"] = credential.strip(" ")
    last = request.headers.get(b"last-event-id")
    if last:
        changes["positions"] = read_event_id(last.decode("latin-1"))
    return replace(hello, **changes)  # type: ignore[arg-type]


def read_event_id(text: str) -> dict[str, object]:
    """Read an event's id: positions by account, as `admit` takes them.

    Raises:
        Refused: It is none of ours.
    """
    found: dict[str, object] = {}
    for pair in text.split(","):
        account, _, seq = pair.partition(":")
        if not (seq.isascii() and seq.isdigit() and len(seq) <= 19):
            raise Refused(Ending.MALFORMED, why="Last-Event-ID is not one of this stream")
        found[account.strip()] = int(seq)
    return found


def write_event_id(positions: Positions) -> str:
    """Write positions as an event's id."""
    return ",".join(f"{account}:{seq}" for account, seq in positions.items())


def _block(event: LiveEvent) -> str:
    return f"event: {event.name}\ndata: {event.payload}\n\n"


@dataclass(slots=True, eq=False)
class EventStream:
    """One stream. The gateway's `Transport`."""

    origin: str | None = None
    """Of the page that asked; one that may not connect is refused before anything is sent."""
    session: Session | None = None
    pump: Pump | None = None
    is_cut: bool = False
    _id: str = ""
    _is_beat_due: bool = False
    _beat: asyncio.TimerHandle | None = None
    _task: "asyncio.Task[Any] | None" = None
    _closing: "asyncio.Task[None] | None" = None

    def wake(self) -> None:
        """Send what waits."""
        if self.pump is not None:
            self.pump.wake()

    def end(self, ending: Ending) -> None:
        """Tell why and end the answer; cut the connection if it does not take that in time."""
        self._closing = asyncio.create_task(self._close(ending))

    async def run(self, receive: Receive, send: Send, headers: Headers) -> None:
        """Send events until the client leaves or the session ends."""
        session = self.session
        assert session is not None, "opened before"
        self._task = asyncio.current_task()
        try:
            await send(_start(self.origin, headers))
            if session.ended is not None:
                await send(_body("", is_last=True))
                return
            await send(_body(f"retry: {RETRY_MS}\n\n"))
            self.pump = Pump(send, self._take, self._message_of, session.leave)
            self._beat_later()
            session.start()
            while (await receive())["type"] != "http.disconnect":
                pass
        except asyncio.CancelledError:
            if not self.is_cut:
                raise
        finally:
            session.leave()
            if self._beat is not None:
                self._beat.cancel()

    def _take(self) -> LiveEvent | None:
        assert self.session is not None, "opened before"
        event = self.session.take()
        if event is None and self._is_beat_due:
            self._is_beat_due = False
            return _HEARTBEAT
        return event

    def _message_of(self, event: LiveEvent) -> Message:
        if event is _HEARTBEAT:
            return _body(":\n\n")
        assert self.session is not None, "opened before"
        text = event.framed("sse", _block)
        place = write_event_id(self.session.sent_positions)
        if place != self._id:
            self._id = place
            text = f"id: {place}\n{text}"
        return _body(text)

    def _beat_later(self) -> None:
        self._beat = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat_now)

    def _beat_now(self) -> None:
        self._is_beat_due = True
        self.wake()
        self._beat_later()

    async def _close(self, ending: Ending) -> None:
        if self.pump is None:
            return  # not begun; `run` sees it
        told = json_event(ERROR, {"code": ending.word, "message": "the stream ends"})
        last = _body(_block(told), is_last=True)
        if not await self.pump.stop(last, deadline_s=CLOSE_DEADLINE_S):
            abort_connection(self.pump.send)
        self.is_cut = True
        if self._task is not None:
            self._task.cancel()


def _start(origin: str | None, always: Headers) -> Message:
    """Return the answer's head; it lets the page's browser read what the gateway lets the page hear."""
    shared = () if origin is None else ((b"access-control-allow-origin", origin.encode("latin-1")),)
    headers = [*always, *_HEADERS, (b"vary", b"origin"), *shared]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _body(text: str, *, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": not is_last}


class StreamQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream may be asked for in the query."""

    token: str | None = None
    positions: str | None = None
    accounts: str | None = None
    user: str | None = None


STREAM_ROUTES = (
    HotRoute(
        STREAM_PATH,
        stream_balance,
        method="GET",
        permission=Permission.LIVE_CONNECT,
        operation=Operation(
            "Stream balances as they change (server-sent events).",
            "live",
            {200: str},
            problems=("rate_limited",),
            query=StreamQuery,
            media_type="text/event-stream",
        ),
    ),
)
"""Add these to the hot routes."""
