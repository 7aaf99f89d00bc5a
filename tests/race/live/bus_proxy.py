"""Stands between the product and Valkey, and spoils what passes: loses, delays, swaps, repeats or cuts."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field

_AGGREGATES = (b"*", b"~", b">")
_PAIRS = (b"%", b"|")
_BULKS = (b"$", b"=", b"!")
_PUBLISHED = (b"\r\nmessage\r\n", b"\r\npmessage\r\n")


def frame_end(buffer: bytes, start: int = 0) -> int | None:
    """Return where the RESP value that begins at `start` ends, or None while it is not all there."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, body, after = buffer[start : start + 1], buffer[start + 1 : line_end], line_end + 2
    if kind in _PAIRS or kind in _AGGREGATES:
        count = max(0, int(body)) * (2 if kind in _PAIRS else 1)
        for _ in range(count):
            end = frame_end(buffer, after)
            if end is None:
                return None
            after = end
        return after
    if kind in _BULKS:
        size = int(body)
        end = after if size < 0 else after + size + 2
        return end if len(buffer) >= end else None
    return after


@dataclass(slots=True)
class BusProxy:
    """A relay on loopback in front of a Valkey; its faults can be changed while it runs."""

    upstream: str
    """Path of Valkey's Unix socket."""
    chance: random.Random
    loss: float = 0.0
    repeats: float = 0.0
    delay_s: float = 0.0
    lost: int = 0
    swapped: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Where the product believes Redis to be."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Drop every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def heal(self) -> None:
        """Spoil nothing from now on."""
        self.loss = self.repeats = self.delay_s = 0.0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self.upstream)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, up_writer)
        self._writers.update(ends)
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer)),
            asyncio.create_task(self._pump_replies(up_reader, writer)),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._tasks.difference_update(pumps)
        self._writers.difference_update(ends)
        for end in ends:
            end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def _pump_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        buffer = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                buffer += data
                while (end := frame_end(buffer)) is not None:
                    self._pass(buffer[:end], writer)
                    buffer = buffer[end:]
                    if not buffer:
                        break

    def _pass(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        is_published = any(word in frame[:40] for word in _PUBLISHED)
        if not is_published:
            writer.write(frame)
            return
        if self.chance.random() < self.loss:
            self.lost += 1
            return
        times = 2 if self.chance.random() < self.repeats else 1
        for _ in range(times):
            if self.delay_s:
                self.swapped += 1
                wait_s = self.chance.random() * self.delay_s
                asyncio.get_running_loop().call_later(wait_s, self._write, frame, writer)
            else:
                writer.write(frame)

    @staticmethod
    def _write(frame: bytes, writer: asyncio.StreamWriter) -> None:
        if not writer.is_closing():
            writer.write(frame)
