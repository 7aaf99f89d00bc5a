"""Serves a simulated bank over real HTTP, down to the bytes that a web server would never send.

Answers that break the rules (cut off, reset, one byte at a time) need the socket itself; hence no framework.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from steelyard.providers.t24.simulator.answers import Reply
from steelyard.providers.t24.simulator.bank import AskedRequest, SimulatedBank

HEAD_BYTES_MAX: Final = 16_384
BODY_BYTES_MAX: Final = 262_144
CONTROL: Final = "/_control"

Control = Callable[[AskedRequest, bytes], Reply]


class _Over(Exception):
    """The connection has ended, or must."""


class BankServer:
    """A listening bank: `refuse` closes the door, `accept` opens it again on the same port."""

    def __init__(
        self,
        bank: SimulatedBank,
        *,
        control: Control | None = None,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.bank, self._control, self._host, self._tls = bank, control, host, tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    async def accept(self, port: int = 0) -> None:
        """Listen: on the port it had before, else on this one, else on any that is free.

        Raises:
            OSError: The port is taken.
        """
        self._server = await asyncio.start_server(
            self._serve, self._host, self.port or port, limit=HEAD_BYTES_MAX, ssl=self._tls
        )
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def refuse(self) -> None:
        """Stop listening and end every connection; whoever comes is refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        ending = list(self._connections)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            early = b""
            while True:
                early = await self._serve_one(reader, writer, early)
        except (_Over, OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            if self._server is not None:
                raise
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes
    ) -> bytes:
        """Answer one request; return what already came of the next."""
        request, body = await _read_request(reader, early)
        if self._control is not None and request.target.split("?")[0].startswith(CONTROL):
            await _write(writer, self._control(request, body))
            return b""
        with self.bank.answering(request) as reply:
            if reply.is_reset:
                _reset(writer)
                raise _Over
            if reply.is_hanging or reply.delay_s > 0 or reply.gap_s > 0:
                return await _while_wanted(reader, _write_slowly(writer, reply))
            await _write(writer, reply)
        return b""


async def _read_request(reader: asyncio.StreamReader, early: bytes) -> tuple[AskedRequest, bytes]:
    head = early + await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= BODY_BYTES_MAX or "transfer-encoding" in headers:
        raise _Over
    return AskedRequest(method, target, headers), await reader.readexactly(length)


async def _while_wanted(reader: asyncio.StreamReader, work: Awaitable[None]) -> bytes:
    """Do work until it is done or the client has left; return what came of its next request.

    Raises:
        _Over: It has left.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise _Over
        doing.result()
        return leaving.result() if leaving.done() else b""
    finally:
        for one in (doing, leaving):
            if not one.done():
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await one


async def _write_slowly(writer: asyncio.StreamWriter, reply: Reply) -> None:
    if reply.is_hanging:
        await asyncio.Event().wait()
    await asyncio.sleep(reply.delay_s)
    if reply.gap_s == 0:
        await _write(writer, reply)
        return
    writer.write(_head(reply))
    for index in range(len(reply.body)):
        writer.write(reply.body[index : index + 1])
        await writer.drain()
        await asyncio.sleep(reply.gap_s)


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> None:
    body = reply.body if reply.cut_at is None else reply.body[: reply.cut_at]
    writer.write(_head(reply) + body)
    await writer.drain()
    if reply.cut_at is not None:
        writer.close()
        raise _Over


def _head(reply: Reply) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    headers = {**reply.headers, "Content-Length": str(len(reply.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} {phrase}\r\n{lines}\r\n".encode("latin-1")


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection the hard way: the other side gets a reset instead of an end."""
    carrier = writer.get_extra_info("socket")
    if carrier is not None:
        carrier.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def serve_bank(
    bank: SimulatedBank,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    on_books: Callable[[], None] | None = None,
) -> AsyncIterator[BankServer]:
    """Serve a bank with its control surface until the context is left.

    `on_books` is called after an order there has changed the books, before anybody can ask for it.

    Raises:
        OSError: The port is taken.
    """
    from steelyard.providers.t24.simulator.control import control_of

    server = BankServer(bank, control=control_of(bank, on_books=on_books), host=host, tls=tls)
    await server.accept(port)
    try:
        yield server
    finally:
        await server.refuse()
