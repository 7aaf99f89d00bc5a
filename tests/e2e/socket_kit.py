"""A plain WebSocket client of the product, as a test speaks to it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from steelyard.access.model import Role
from tests.e2e.scene import Owned
from tests.e2e.server_kit import Server, token

DEADLINE_S = 10.0
QUIET_S = 0.4


@dataclass
class Socket:
    """One open connection and everything it heard."""

    connection: ClientConnection
    heard: list[dict[str, Any]] = field(default_factory=list)

    async def next(self, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next frame."""
        async with asyncio.timeout(deadline_s):
            text = await self.connection.recv()
        found: dict[str, Any] = json.loads(text)
        self.heard.append(found)
        return found

    async def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Return the next frame of this event with these fields; what comes before is kept in `heard`."""
        while True:
            found = await self.next()
            if found["event"] == event and fields.items() <= found.items():
                return found

    async def quiet(self) -> None:
        """Check that nothing more comes for a while."""
        try:
            found = await self.next(QUIET_S)
        except TimeoutError:
            return
        raise AssertionError(f"there came {found}")

    async def say(self, event: str, **fields: Any) -> None:
        """Send a client event."""
        await self.connection.send(json.dumps({"event": event, **fields}))

    async def closed(self) -> tuple[int, str]:
        """Wait until the server closes; return code and reason."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    self.heard.append(json.loads(await self.connection.recv()))
                except ConnectionClosed:
                    break
        return self.connection.close_code or 0, self.connection.close_reason or ""


def url_of(server: Server, **query: Any) -> str:
    """Return the address of the plain WebSocket."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in query.items()
    }
    return f"ws://127.0.0.1:{server.port}/balance?{urlencode(texts)}"


@asynccontextmanager
async def connected(server: Server, **query: Any) -> AsyncIterator[Socket]:
    """Connect with these query parameters."""
    async with connect(url_of(server, **query), compression=None, proxy=None) as connection:
        yield Socket(connection)


def token_of(owned: Owned, **options: Any) -> str:
    """Return a token of the user itself."""
    return token(owned.user, Role.USER, tenant=owned.tenant, **options)
