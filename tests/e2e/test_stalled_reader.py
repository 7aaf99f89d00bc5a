"""A client that stops reading costs the server nothing: it is cut off, memory stays, and it comes back to the newest."""

import asyncio
import json
import logging
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from steelyard.access.model import Role
from steelyard.core.ids import AccountId
from steelyard.runtime.database import Database
from tests.e2e.server_kit import Server, start_server, token
from tests.world import World, drop_database, make_fresh

BOUND_KIB = 4 * 1024
"""How much more memory a server may take for a reader that stalls than for one that reads."""
AT_ONCE = 500
MONEY = 1_000_000
CHANGES = [20_000, pytest.param(60_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
_log = logging.getLogger(__name__)
_SEQ = re.compile(rb'"seq":(\d+)')


@dataclass
class Rig:
    """A server process, and a ledger beside it that commits as another process does."""

    server: Server
    world: World
    readers: "list[Reader]" = field(default_factory=list)

    def memory_kib(self) -> int:
        """What the server has in memory now."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])

    def sockets(self) -> int:
        """How many sockets the server has open."""
        names = [
            entry.readlink() for entry in Path(f"/proc/{self.server.process.pid}/fd").iterdir()
        ]
        return sum(str(name).startswith("socket:") for name in names)

    async def endings(self, why: str) -> int:
        """How many sessions have ended for this reason."""
        answer = await self.server.client.get("/metrics")
        found = re.search(rf'steelyard_live_endings_total{{why="{why}"}} (\d+)', answer.text)
        return int(found[1]) if found else 0

    async def charge(self, account: AccountId, times: int) -> int:
        """Charge one unit, many times; return the newest `seq`."""
        ledger = self.world.ledger()
        for _ in range(times // AT_ONCE):
            await asyncio.gather(*(ledger.charge(account, 1) for _ in range(AT_ONCE)))
        return (await self.world.balance(account)).seq


@pytest_asyncio.fixture(scope="module")
async def rig(
    admin_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rig]:
    """Start everything, and let one reader see enough that the server has its working memory."""
    fresh = await make_fresh(admin_url, template)
    database = await Database.open(fresh.app_url, pool_size=2)
    world = await World.open(database, fresh)
    folder = tmp_path_factory.mktemp("stalled")
    server = await start_server(fresh.app_url, folder)
    made = Rig(server, world)
    await growth_with_readers(made, "warm", 3_000)
    yield made
    for reader in made.readers:
        await reader.close()
    await server.stop()
    await world.close()
    await database.close()
    await drop_database(admin_url, fresh.name)


@dataclass
class Reader:
    """A client by hand: it reads only when it is told to."""

    connection: socket.socket
    user: str
    account: AccountId
    unread: bytes = b""
    newest: int = 0
    task: "asyncio.Task[None] | None" = field(default=None)

    @classmethod
    async def connect(cls, opened: "Opened", request: str) -> "Reader":
        """Connect with a small receive buffer and send a request's head."""
        connection = socket.socket(proto=socket.IPPROTO_TCP)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", opened[0]))
        await loop.sock_sendall(connection, request.encode())
        return cls(connection, opened[1], opened[2])

    async def say(self, text: str) -> None:
        """Send a text frame."""
        body = text.encode()
        head = bytes([0x81, 0xFE]) + len(body).to_bytes(2, "big")
        await asyncio.get_running_loop().sock_sendall(self.connection, head + b"\0\0\0\0" + body)

    async def read_until(self, found: Callable[[bytes], bool]) -> bytes:
        """Read until what has come satisfies; return it all."""
        async with asyncio.timeout(20):
            while not found(self.unread):
                self._take(await asyncio.get_running_loop().sock_recv(self.connection, 65536))
        return self.unread

    def read_on(self) -> None:
        """Read all that comes from now on, keeping only the newest `seq`."""

        async def read() -> None:
            while piece := await asyncio.get_running_loop().sock_recv(self.connection, 65536):
                self._take(piece)
                self.unread = self.unread[-2000:]

        self.task = asyncio.create_task(read())

    async def read_to_end(self) -> None:
        """Read what is left in the buffers until the server's end of the connection."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            try:
                while piece := await loop.sock_recv(self.connection, 65536):
                    self._take(piece)
            except ConnectionResetError:
                return

    async def close(self) -> None:
        """Leave."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.connection.close()

    def _take(self, piece: bytes) -> None:
        if not piece:
            raise ConnectionError("the server has closed")
        self.unread += piece
        for number in _SEQ.findall(self.unread[-len(piece) - 40 :]):
            self.newest = max(self.newest, int(number))


def upgrade(path: str) -> str:
    """Return the head of a WebSocket handshake."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )


def signed(user: str) -> str:
    """Return the user's token."""
    return token(user, Role.USER)


Opened = tuple[int, str, AccountId, int | None]
Opener = Callable[[Opened], Coroutine[Any, Any, Reader]]


async def open_socket_io(opened: Opened) -> Reader:
    """Connect to `/balance` by Socket.IO, WebSocket only."""
    _, user, account, seen = opened
    path = "/socket.io/?EIO=4&transport=websocket"
    reader = await Reader.connect(opened, upgrade(path))
    await reader.read_until(lambda text: b"pingTimeout" in text)
    auth = {"token": signed(user), "positions": {} if seen is None else {str(account): seen}}
    await reader.say("40/balance," + json.dumps(auth))
    return reader


async def open_websocket(opened: Opened) -> Reader:
    """Connect to the plain WebSocket."""
    _, user, account, seen = opened
    places = quote(json.dumps({} if seen is None else {str(account): seen}))
    path = f"/balance?token={signed(user)}&positions={places}"
    return await Reader.connect(opened, upgrade(path))


async def open_stream(opened: Opened) -> Reader:
    """Connect to the stream of server-sent events."""
    _, user, account, seen = opened
    head = f"GET /balance/stream?token={signed(user)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    last = "" if seen is None else f"Last-Event-ID: {account}:{seen}\r\n"
    return await Reader.connect(opened, head + last + "\r\n")


OPENERS = {"socket.io": open_socket_io, "websocket": open_websocket, "sse": open_stream}


def has_initial(text: bytes) -> bool:
    """Whether the first balance has come whole."""
    return "seq" in initial_of(text)


def initial_of(text: bytes) -> dict[str, object]:
    """Return the payload of `balance_initial`; empty while it has not come."""
    place = text.find(b"balance_initial")
    if place < 0:
        return {}
    begin, end = text.find(b'{"balance"', place), text.find(b"}", place)
    if begin < 0:  # the plain WebSocket has name and payload in one object
        begin = text.rfind(b"{", 0, place)
    try:
        found: dict[str, object] = json.loads(text[begin : end + 1])
    except ValueError:
        return {}
    return found


async def open_all(rig: Rig, user: str) -> dict[str, Reader]:
    """Open a session at every door for a new user with an account; each has its first balance."""
    account = await rig.world.open_account(MONEY, user=user)
    readers = {
        door: await opener((rig.server.port, user, account, None))
        for door, opener in OPENERS.items()
    }
    rig.readers.extend(readers.values())
    for reader in readers.values():
        await reader.read_until(has_initial)
    return readers


async def growth_with_readers(rig: Rig, user: str, changes: int) -> int:
    """Let changes happen while everybody reads; return the growth of the server in KiB."""
    readers = await open_all(rig, user)
    before = rig.memory_kib()
    for reader in readers.values():
        reader.read_on()
    newest = await rig.charge(readers["sse"].account, changes)
    async with asyncio.timeout(60):
        while min(one.newest for one in readers.values()) < newest:  # noqa: ASYNC110  (they read)
            await asyncio.sleep(0.02)
    growth = rig.memory_kib() - before
    for reader in readers.values():
        await reader.close()
    return growth


async def growth_with_stalled_readers(
    rig: Rig, user: str, changes: int
) -> tuple[int, dict[str, Reader], int]:
    """Let changes happen while nobody reads, until all are cut off; return the growth, the readers, the newest `seq`."""
    slow = await rig.endings("too_slow")
    stalled = await open_all(rig, user)
    before = rig.memory_kib()
    newest = await rig.charge(stalled["sse"].account, changes)
    async with asyncio.timeout(30):
        while await rig.endings("too_slow") < slow + len(stalled):  # noqa: ASYNC110  (it counts)
            await asyncio.sleep(0.1)
    return rig.memory_kib() - before, stalled, newest


@pytest.mark.parametrize("changes", CHANGES)
async def test_readers_that_stall_cost_no_memory_and_come_back_to_the_newest(
    rig: Rig, changes: int
) -> None:
    name, slow = secrets.token_hex(4), await rig.endings("too_slow")
    control = await growth_with_readers(rig, f"reads-{name}", changes)
    assert await rig.endings("too_slow") == slow, "a client that reads is not slow"
    bound, sockets = max(control, 0) + BOUND_KIB, rig.sockets()
    growth, stalled, newest = await growth_with_stalled_readers(rig, f"stalls-{name}", changes)
    _log.info("%d changes: with readers %d KiB, stalled %d KiB", changes, control, growth)
    if growth > bound:
        # A process grows when it does something for the first time; a queue without a bound grows every time.
        for reader in stalled.values():
            await reader.close()
        growth, stalled, newest = await growth_with_stalled_readers(rig, f"again-{name}", changes)
    assert growth <= bound

    async with asyncio.timeout(30):
        while rig.sockets() > sockets:  # noqa: ASYNC110  (the server closes them)
            await asyncio.sleep(0.1)
    for door, reader in stalled.items():
        await comes_back(rig, door, reader, newest)


async def comes_back(rig: Rig, door: str, reader: Reader, newest: int) -> None:
    """Read what is left, then resume: the newest balance comes, and how much was missed."""
    await reader.read_to_end()
    seen = reader.newest
    assert seen < newest, "it was told all: it has not stalled"
    await reader.close()
    user = reader.user
    back = await OPENERS[door]((rig.server.port, user, reader.account, seen))
    told = initial_of(await back.read_until(has_initial))
    await back.close()
    balance = await rig.world.balance(reader.account)
    assert (told["seq"], told["resumed"], told["reason"]) == (newest, False, "gap")
    assert told["missed"] == newest - seen
    assert told["balance"] == balance.available / 100
