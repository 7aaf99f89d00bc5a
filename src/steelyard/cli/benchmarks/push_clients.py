"""The screens of `bench push`, in a process of their own: `python -m steelyard.cli.benchmarks.push_clients`.

A thousand Socket.IO clients over WebSocket, each only as much of the protocol as it takes to connect, to answer
pings and to note when an event came: the same for every side. The plan comes as one line of JSON on stdin; then
each line on stdin is answered by one line: how many frames came so far. When stdin ends, what came is written to
the plan's file and the process ends.
"""

import asyncio
import base64
import json
import os
import sys
import time
from array import array
from dataclasses import dataclass, field
from typing import cast

import msgspec

from steelyard.cli.serving import run_in_loop

CONNECT_AT_ONCE = 50
CONNECT_DEADLINE_S = 60.0
_COMPLETED = b'42/balance,["transaction_completed",'
_EVENT = b"42/balance,"
_CONNECTED = b"40/balance,"
_MASK_NOTHING = bytes(4)
_SHORT, _MEDIUM = 126, 127


class ClientsPlan(msgspec.Struct, frozen=True):
    """Who connects where, and where to write what they saw."""

    port: int
    tokens: list[str]
    file: str


@dataclass(slots=True)
class Seen:
    """What all clients saw: for each `transaction_completed` its account, `seq` and moment (monotonic, ns)."""

    events: int = 0
    refused: int = 0
    reordered: int = 0
    completed: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass(slots=True, eq=False)
class Client(asyncio.Protocol):
    """One screen."""

    token: str
    seen: Seen
    connected: asyncio.Future[None]
    _buffer: bytearray = field(default_factory=bytearray)
    _is_upgraded: bool = False
    _newest: int = 0
    _known: set[int] = field(default_factory=set)
    _transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        key = base64.b64encode(os.urandom(16))
        self._transport.write(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: " + key + b"\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        """Take frames as they come."""
        buffer = self._buffer
        buffer += data
        if not self._is_upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if not buffer.startswith(b"HTTP/1.1 101"):
                self._fail(f"no WebSocket: {bytes(buffer[:80])!r}")
                return
            del buffer[: end + 4]
            self._is_upgraded = True
        while (frame := _take_frame(buffer)) is not None:
            self._hear(*frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """A client that loses its connection before it was let in says so."""
        self._fail(f"connection lost: {exc}")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _hear(self, opcode: int, message: bytes) -> None:
        if opcode == 9:
            self._send(message, opcode=10)
        elif message.startswith(_EVENT):
            self.seen.events += 1
            if message.startswith(_COMPLETED):
                self._note(message)
        elif message == b"2":
            self._send(b"3")
        elif message.startswith(b"0"):
            self._send(_CONNECTED + json.dumps({"token": self.token}).encode())
        elif message.startswith(_CONNECTED):
            if not self.connected.done():
                self.connected.set_result(None)
        elif message.startswith(b"44/balance,"):
            self._fail(message.decode(errors="replace"))

    def _note(self, message: bytes) -> None:
        now_ns = time.monotonic_ns()
        payload = json.loads(message[len(_COMPLETED) : -1])
        seq = payload["seq"]
        if seq in self._known:
            return  # the channel may say a thing twice; the peer hands that on
        self._known.add(seq)
        if seq < self._newest:
            self.seen.reordered += 1
        self._newest = max(self._newest, seq)
        self.seen.completed.extend((int(payload["accountId"]), seq, now_ns))

    def _send(self, message: bytes, *, opcode: int = 1) -> None:
        assert self._transport is not None
        size = len(message)
        length = (
            bytes((0x80 | size,)) if size < _SHORT else bytes((0x80 | _SHORT,)) + size.to_bytes(2)
        )
        # A mask of zeros leaves the bytes as they are.
        self._transport.write(bytes((0x80 | opcode,)) + length + _MASK_NOTHING + message)

    def _fail(self, why: str) -> None:
        if not self.connected.done():
            self.seen.refused += 1
            self.connected.set_exception(ConnectionError(why))


def _take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Take one whole server frame from the front, or None while it is not all there."""
    if len(buffer) < 2:
        return None
    size, start = buffer[1] & 0x7F, 2
    if size >= _SHORT:
        start = 4 if size == _SHORT else 10
        if len(buffer) < start:
            return None
        size = int.from_bytes(buffer[2:start])
    if len(buffer) < start + size:
        return None
    opcode, message = buffer[0] & 0x0F, bytes(buffer[start : start + size])
    del buffer[: start + size]
    return opcode, message


async def _connect_all(plan: ClientsPlan, seen: Seen) -> list[Client]:
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(CONNECT_AT_ONCE)

    async def connect(token: str) -> Client:
        async with gate:
            client = Client(token, seen, loop.create_future())
            await loop.create_connection(lambda: client, "127.0.0.1", plan.port)
            await client.connected
            return client

    async with asyncio.timeout(CONNECT_DEADLINE_S):
        return list(await asyncio.gather(*(connect(token) for token in plan.tokens)))


async def _run() -> None:
    loop = asyncio.get_running_loop()
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=ClientsPlan)
    seen = Seen()
    clients = await _connect_all(plan, seen)
    _tell(seen)
    while await loop.run_in_executor(None, sys.stdin.buffer.readline):
        _tell(seen)
    for client in clients:
        client.close()
    with open(plan.file, "wb") as file:  # noqa: ASYNC230  (everything is over)
        seen.completed.tofile(file)


def _tell(seen: Seen) -> None:
    told = {
        "events": seen.events,
        "completed": len(seen.completed) // 3,
        "reordered": seen.reordered,
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_in_loop(_run(), wants_uvloop=True)
