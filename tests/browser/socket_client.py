"""The npm socket.io-client in a process of its own, with everything it hears, in order."""

from typing import Any

from tests.browser.install import Clients
from tests.browser.node_script import Event, NodeScript


class SocketClient:
    """One socket of a client process."""

    def __init__(self, script: NodeScript, name: str) -> None:
        self._script = script
        self.name = name

    @property
    def events(self) -> list[Event]:
        """All that was told about this socket, in order."""
        return [event for event in self._script.events if event["socket"] == self.name]

    @property
    def names(self) -> list[str]:
        """The names of its events, in order."""
        return [event["event"] for event in self.events]

    def heard(self, event: str) -> list[Any]:
        """The payloads of every event of this name, in order."""
        return [one["data"] for one in self.events if one["event"] == event]

    async def wait(self, event: str, *, times: int = 1, **payload: object) -> Event:
        """Return the event once it came `times` times with these fields in its payload."""
        left = times

        def is_wanted(one: Event) -> bool:
            nonlocal left
            if one["socket"] != self.name or one["event"] != event:
                return False
            data = one.get("data") or {}
            if any(data.get(name) != value for name, value in payload.items()):
                return False
            left -= 1
            return left == 0

        return await self._script.wait(is_wanted)

    async def do(self, command: str, *arguments: object) -> Any:
        """Run a command of `socket_io.cjs` on this socket."""
        return await self._script.call(command, self.name, *arguments)


class SocketClients:
    """A client process that opens sockets; sockets to one host share a Manager as they do on a page."""

    def __init__(self, script: NodeScript) -> None:
        self._script = script
        self._opened = 0

    @classmethod
    async def start(cls, clients: Clients) -> "SocketClients":
        """Start a process without sockets."""
        return cls(await NodeScript.start(clients, "socket_io.cjs"))

    async def open(
        self,
        url: str,
        options: dict[str, Any] | None = None,
        *,
        inside_connect: tuple[str, ...] = (),
    ) -> SocketClient:
        """Call `io(url, options)`; `inside_connect` names events to listen for only from inside `on("connect")`."""
        socket = self._next()
        await socket.do("open", url, options or {}, inside_connect)
        return socket

    async def open_with_positions(
        self, url: str, token: str, options: dict[str, Any] | None = None
    ) -> SocketClient:
        """Open a socket that offers the positions it has seen whenever it connects again."""
        socket = self._next()
        await socket.do("openWithPositions", url, token, options or {})
        return socket

    def _next(self) -> SocketClient:
        self._opened += 1
        return SocketClient(self._script, f"socket {self._opened}")

    async def stop(self) -> None:
        """Disconnect all and end the process."""
        await self._script.stop()
