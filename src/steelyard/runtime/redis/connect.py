"""Connections to Redis or Valkey: one by one, with a deadline, and never with the password in a text."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import RedisError, ResponseError

CONNECT_DEADLINE_S = 1.0

Command = Sequence[str | bytes | int]

LOST: tuple[type[Exception], ...] = (OSError, TimeoutError, EOFError, RedisError)
"""What is raised when the server went away, is too slow, or refuses to work."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A server named by a URL: `redis://`, `rediss://` or `unix://`."""

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """What may be told of it: no user, no password."""
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return f"unix://{parts.path}"
        return f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"

    async def connect(self, purpose: str) -> AbstractConnection:
        """Open a connection, signed in and named after its purpose in `CLIENT LIST`.

        Raises:
            RedisError, OSError, TimeoutError: It does not answer within a second, or refuses.
        """
        connection = self._make(purpose)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _make(self, purpose: str) -> AbstractConnection:
        try:
            options: dict[str, Any] = dict(parse_url(self.url))
        except ValueError:
            raise RedisError("the address cannot be read") from None
        kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        options |= {
            "protocol": 2,
            "client_name": f"steelyard-{purpose}",
            "driver_info": None,
            "socket_timeout": None,  # every caller has a deadline of its own
            "socket_connect_timeout": CONNECT_DEADLINE_S,
            "health_check_interval": 0,
        }
        try:
            return kind(**options)
        except TypeError:  # a word in the address's query that is no option
            raise RedisError("the address has an option nobody knows") from None


async def ask_all(
    connection: AbstractConnection, commands: Iterable[Command], *, deadline_s: float
) -> list[Any]:
    """Send commands in one go and return their answers in order; an error answer stands in its place.

    Raises:
        RedisError, OSError, TimeoutError: The connection was lost or was too slow, and is closed.
    """
    sent = list(commands)
    answers: list[Any] = []
    try:
        async with asyncio.timeout(deadline_s):
            await connection.send_packed_command(b"".join(map(packed, sent)))
            for _ in sent:
                try:
                    answers.append(await connection.read_response())
                except ResponseError as error:
                    answers.append(error)
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return answers


def packed(command: Command) -> bytes:
    """Return a command as it is sent; the client's own way takes three times as long for long ones."""
    parts = [b"*%d\r\n" % len(command)]
    for part in command:
        data = part if isinstance(part, bytes) else str(part).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
