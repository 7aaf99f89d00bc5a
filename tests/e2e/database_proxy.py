"""A proxy in front of PostgreSQL that can cut connections, refuse new ones, or swallow everything."""

import asyncio
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit, urlunsplit


@dataclass
class DatabaseProxy:
    """Forwards bytes to the database until it is told otherwise."""

    target: str
    port: int = 0
    is_away: bool = False
    is_silent: bool = False
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> str:
        """Listen; return the database's URL by way of the proxy."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self.target)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{self.port}", query=""))

    async def close(self) -> None:
        """End everything."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection there is."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def go_away(self) -> None:
        """Break what there is and refuse what comes."""
        self.is_away = True
        self.cut()

    def come_back(self) -> None:
        """Forward again; what was silent meanwhile is broken."""
        if self.is_silent:
            self.cut()
        self.is_away = self.is_silent = False

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.target)
        query = parse_qs(parts.query)
        host = query.get("host", [parts.hostname or "127.0.0.1"])[0]
        port = int(query.get("port", [parts.port or 5432])[0])
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self.is_away:
                return
            far_reader, far_writer = await self._connect()
            self._writers.add(far_writer)
            try:
                await asyncio.gather(
                    self._forward(reader, far_writer), self._forward(far_reader, writer)
                )
            finally:
                self._drop(far_writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._drop(writer)
            self._tasks.discard(task)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:

        while data := await reader.read(65536):
            if not self.is_silent:
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
