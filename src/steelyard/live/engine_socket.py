"""The WebSocket under an Engine.IO socket: every frame is checked, every wait ends, and a reader that stalls can be cut off.

Stands where python-engineio has its thin ASGI wrapper (`_async["websocket"]`), with the calls of that one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from steelyard.live.cut_connection import Send, abort_connection

UPGRADE_DEADLINE_S = 10.0
CLOSE_DEADLINE_S = 2.0

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Owner(Protocol):
    """What a WebSocket needs from the connection it belongs to."""

    driver: "EngineWebSocket | None"

    def is_admitted(self, frame: str | None) -> bool:
        """Whether a frame may go on; where not, the end has been arranged. None is binary data."""
        ...


class EngineWebSocket:
    """One WebSocket of one Engine.IO socket, from its handshake or from an upgrade."""

    def __init__(self, handler: Callable[[Any], Awaitable[Any]], server: Any) -> None:
        """Take python-engineio's handler, a method of its socket, and its server."""
        self._handler = handler
        self._socket: Any = handler.__self__  # type: ignore[attr-defined]
        self._owner: Owner = self._socket.queue.owner
        self._is_upgrade = bool(self._socket.connected)
        self._is_cut = False
        self._is_closed = False
        self._own: asyncio.Task[Any] | None = None
        self._writer: asyncio.Task[Any] | None = None
        self._reader: asyncio.Task[Any] | None = None

    async def __call__(self, environ: dict[str, Any]) -> str:
        """Accept the WebSocket and serve it until it ends."""
        self._receive: Receive = environ["asgi.receive"]
        self._send: Send = environ["asgi.send"]
        self._own = asyncio.current_task()
        self._owner.driver = self
        try:
            await self._send({"type": "websocket.accept"})
            await self._handler(self)
        finally:
            self._owner.driver = None
            if self._is_upgrade and not self._socket.upgraded:
                self._socket.upgrading = False  # a probe that failed: polling goes on
            else:
                self._socket.queue.put_nowait(None)
                await self._socket.close(wait=False, abort=True)
        return ""

    async def wait(self) -> str:
        """Return the next frame.

        Raises:
            OSError: The client left, the frame was not admitted, or an upgrade took longer than `UPGRADE_DEADLINE_S`.
        """
        self._reader = asyncio.current_task()
        if self._is_upgrade and not self._socket.upgraded:
            async with asyncio.timeout(UPGRADE_DEADLINE_S):
                message = await self._receive()
        else:
            message = await self._receive()
        if message["type"] != "websocket.receive":
            raise OSError("the client has left")
        frame: str | None = message.get("text")
        if not self._owner.is_admitted(frame) or frame is None:
            raise OSError("the frame was refused")
        return frame

    async def send(self, frame: str) -> None:
        """Send a frame; waits while the client does not read, until `cut`."""
        writer = asyncio.current_task()
        if writer is not self._own:
            self._writer = writer
        await self._send({"type": "websocket.send", "text": frame})

    @property
    def is_serving(self) -> bool:
        """Whether it carries the session: its handshake, or its upgrade, is done."""
        return bool(self._socket.upgraded) and not self._is_closed

    def write(self, message: dict[str, Any]) -> Awaitable[None]:
        """Send an ASGI message as the pump does, past python-engineio's writer.

        Raises:
            OSError: The WebSocket is closed.
        """
        if self._is_closed:
            raise ConnectionError("this WebSocket is closed")
        return self._send(message)

    async def close(self) -> None:
        """Close in good manners; cut where that cannot be sent within `CLOSE_DEADLINE_S`."""
        self._is_closed = True
        if self._is_cut:
            return
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._send({"type": "websocket.close", "code": 1000})
        except TimeoutError:
            self.cut()
        except (OSError, RuntimeError):
            pass  # closed already, from the other side

    def cut(self) -> None:
        """End the connection now: what waits to be written is thrown away, reader and writer stop."""
        if self._is_cut:
            return
        self._is_cut = self._is_closed = True
        abort_connection(self._send)
        for task in (self._writer, self._reader):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
