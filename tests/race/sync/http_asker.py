"""A client that costs little, so that what it measures is the server: kept-alive connections, ready-made bytes."""

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from steelyard.access.model import Role
from tests.e2e.server_kit import key, token

SERVICE = "shop"
"""Who charges; everybody else is a user."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and how long it took from the first byte sent."""

    status: int
    body: bytes
    took_s: float

    def told(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@dataclass(slots=True)
class Asker:
    """Asks one server; a connection that is free is used again."""

    port: int
    _free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=deque)
    _tokens: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, user: str) -> Answer:
        """Read something as a user."""
        return await self._ask("GET", path, user, b"", "")

    async def post(self, path: str, user: str, body: object = None) -> Answer:
        """Do something as a user, under a new key."""
        content = b"" if body is None else json.dumps(body).encode()
        more = f"Idempotency-Key: {key()['Idempotency-Key']}\r\nContent-Type: application/json\r\n"
        return await self._ask("POST", path, user, content, more)

    async def close(self) -> None:
        """Close what is kept."""
        while self._free:
            self._free.popleft()[1].close()

    def prepare(self, users: list[str]) -> None:
        """Sign tokens beforehand, so that it does not count."""
        for user in users:
            role = Role.SERVICE if user == SERVICE else Role.USER
            self._tokens.setdefault(user, token(user, role))

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            reader, writer = self._free.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()  # the server gave it up meanwhile
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def _ask(self, method: str, path: str, user: str, body: bytes, more: str) -> Answer:
        self.prepare([user])
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._tokens[user]}\r\n"
            f"{more}Content-Length: {len(body)}\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        reader, writer = await self._connection()
        try:
            writer.write(head.encode() + body)
            answer_head = await reader.readuntil(b"\r\n\r\n")
            place = answer_head.lower().find(b"content-length: ")
            length = int(answer_head[place + 16 : answer_head.find(b"\r", place)])
            content = await reader.readexactly(length)
        except BaseException:
            writer.transport.abort()
            raise
        self._free.append((reader, writer))
        return Answer(int(answer_head[9:12]), content, loop.time() - began_s)
