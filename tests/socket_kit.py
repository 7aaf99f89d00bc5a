"""A server of `/socket.io/` in this process, a gateway of a few lines, and clients that speak the protocol by hand."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect

from steelyard.cli.serving import server_for
from steelyard.core.clock import Clock
from steelyard.live.admit import Origins
from steelyard.live.engine_connection import Session
from steelyard.live.events import LiveEvent, json_event
from steelyard.live.limits import LiveLimits
from steelyard.live.outbox import Outbox
from steelyard.live.socket_io import SocketIoAdapter
from steelyard.live.transport import Ending, Hello, Refused, Transport
from steelyard.runtime.clock import SystemClock

GOOD = "good token"
EVENT_START = '42/balance,["'


@dataclass(eq=False)
class PlainSession:
    """A session without a database: what is put goes out, what is heard is noted."""

    hello: Hello
    transport: Transport
    outbox: Outbox = field(init=False)
    heard: list[tuple[str, object]] = field(default_factory=list)
    complaints: list[tuple[str, str]] = field(default_factory=list)
    ended: Ending | None = None
    starts: int = 0

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.transport.wake, lambda: self.end(Ending.TOO_SLOW))

    def start(self) -> None:
        self.starts += 1
        self.put(json_event("balance_initial", {"balance": 10}))

    def take(self) -> LiveEvent | None:
        return self.outbox.take()

    async def hear(self, name: str, data: object) -> str | None:
        self.heard.append((name, data))
        self.put(json_event("answered", {"name": name}))
        return json.dumps({"name": name})

    def complain(self, code: str, message: str) -> None:
        self.complaints.append((code, message))
        self.put(json_event("error", {"code": code, "message": message}))

    def put(self, event: LiveEvent) -> None:
        if self.ended is None:
            self.outbox.put(event)

    def end(self, ending: Ending) -> None:
        if self.ended is None:
            self.ended = ending
            self.outbox.clear()
            self.transport.end(ending)

    def leave(self) -> None:
        if self.ended is None:
            self.ended = Ending.LEFT
            self.outbox.clear()


@dataclass(eq=False)
class PlainGateway:
    """Lets in who has the good token."""

    sessions: list[PlainSession] = field(default_factory=list)
    delay_s: float = 0.0

    async def open(self, hello: Hello, transport: Transport) -> Session:
        await asyncio.sleep(self.delay_s)
        if hello.token == "away":
            raise Refused(Ending.FAILED, why="the database is away; nothing was done")
        if hello.token != GOOD:
            raise Refused(Ending.UNAUTHENTICATED, why="this token is not valid")
        session = PlainSession(hello, transport)
        self.sessions.append(session)
        return session

    @property
    def open_sessions(self) -> list[PlainSession]:
        return [session for session in self.sessions if session.ended is None]


def free_socket() -> socket.socket:
    """Return a socket bound to a free port of this machine."""
    bound = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio then sends small pieces at once
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    return bound


@asynccontextmanager
async def listening(application: Any) -> AsyncIterator[int]:
    """Serve an ASGI application with uvicorn in this process; yields the port."""
    bound = free_socket()
    options = {"log_config": None, "access_log": False, "ws_per_message_deflate": False}
    server = server_for(application, {**options, "timeout_graceful_shutdown": 5})
    running = asyncio.create_task(server.serve([bound]))
    await server.is_up.wait()
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await running
        bound.close()


@dataclass(eq=False)
class Rig:
    """A running adapter and where to find it."""

    adapter: SocketIoAdapter
    gateway: PlainGateway
    port: int

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}/socket.io/?EIO=4"

    @asynccontextmanager
    async def websocket(self, query: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket and read its `open` packet."""
        options.setdefault("compression", None)
        async with connect(f"ws://{self.url}&transport=websocket{query}", **options) as client:
            opened = await client.recv()
            assert isinstance(opened, str)
            assert opened.startswith("0{")
            yield client

    @asynccontextmanager
    async def websocket_of(self, sid: str) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket for a session of the polling transport."""
        url = f"ws://{self.url}&transport=websocket&sid={sid}"
        async with connect(url, compression=None) as client:
            yield client

    @asynccontextmanager
    async def polling(self) -> AsyncIterator["Poller"]:
        """Open a session of the polling transport."""
        async with httpx2.AsyncClient(timeout=30, verify=False) as client:
            answer = await client.get(f"http://{self.url}&transport=polling")
            sid = json.loads(answer.text[1:])["sid"]
            poller = Poller(client, f"http://{self.url}&transport=polling&sid={sid}", sid)
            yield poller
            await poller.post("1")


@dataclass(eq=False)
class Poller:
    """A client of the polling transport."""

    client: httpx2.AsyncClient
    url: str
    sid: str

    async def get(self) -> list[str]:
        """Poll once; the packets."""
        answer = await self.client.get(self.url)
        assert answer.status_code == 200, answer.text
        return answer.text.split("\x1e")

    async def post(self, *packets: str) -> httpx2.Response:
        """Send packets."""
        return await self.client.post(self.url, content="\x1e".join(packets).encode())


@asynccontextmanager
async def rig(
    limits: LiveLimits | None = None,
    *,
    origins: Origins | None = None,
    clock: Clock | None = None,
    ping_timeout_s: float = 20.0,
) -> AsyncIterator[Rig]:
    """Serve an adapter over a `PlainGateway`."""
    gateway = PlainGateway()
    adapter = SocketIoAdapter(
        gateway,
        origins=origins or Origins(allows_localhost=True),
        limits=limits or LiveLimits(),
        clock=clock or SystemClock(),
        ping_timeout_s=ping_timeout_s,
    )
    async with listening(adapter) as port:
        yield Rig(adapter, gateway, port)
        await adapter.close()


def connect_packet(token: str | None = GOOD, **auth: object) -> str:
    """Return the CONNECT packet of `/balance`."""
    return "40/balance," + json.dumps({"token": token, **auth} if token is not None else auth)


async def joined(client: ClientConnection, token: str = GOOD) -> str:
    """Connect to `/balance`; return the CONNECT answer."""
    await client.send(connect_packet(token))
    return await text_of(client)


async def text_of(client: ClientConnection) -> str:
    """Return the next frame."""
    async with asyncio.timeout(5):
        frame = await client.recv()
    assert isinstance(frame, str)
    return frame


def event_of(frame: str) -> tuple[str, Any]:
    """Return name and payload of an event's frame."""
    assert frame.startswith("42/balance,"), frame
    name, payload = json.loads(frame.removeprefix("42/balance,"))
    return name, payload


async def until(condition: Callable[[], bool], *, within_s: float = 5.0) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It did not.
    """
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (anything may make it true)
            await asyncio.sleep(0.01)
