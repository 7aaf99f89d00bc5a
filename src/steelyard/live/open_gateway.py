"""Puts the live gateway of a process together: the gateway and the doors through which clients come."""

from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from steelyard.live.admit import Origins, parse_origins
from steelyard.live.gateway import Gateway, LivePorts
from steelyard.live.limits import LiveLimits
from steelyard.live.socket_io import SocketIoAdapter
from steelyard.live.websocket import PATH, WebSocketAdapter, refuse_websocket
from steelyard.runtime.settings import Settings

SOCKET_IO = "/socket.io"


def limits_of(settings: Settings) -> LiveLimits:
    """Return what the settings allow."""
    return LiveLimits(
        connections=settings.live_connections,
        connections_per_user=settings.live_connections_per_user,
        accounts=settings.live_accounts,
        messages=settings.live_messages,
        messages_per_s=settings.live_messages_per_s,
        updates_per_s=settings.live_updates_per_s,
        sweep_interval_s=settings.live_sweep_interval_ms / 1000,
    )


@dataclass(slots=True, eq=False)
class Live:
    """The gateway with its doors: Socket.IO and the plain WebSocket here, SSE among the routes."""

    gateway: Gateway
    websocket: WebSocketAdapter
    socket_io: SocketIoAdapter

    @classmethod
    def open(cls, ports: LivePorts, settings: Settings, *, allows_localhost: bool) -> "Live":
        """Build everything and begin to listen on the bus.

        Args:
            ports: What the gateway works with.
            settings: Those that begin with LIVE_ are read.
            allows_localhost: Pages of this machine may connect, whatever their port.
        """
        limits = limits_of(settings)
        origins = Origins(parse_origins(settings.live_origins), allows_localhost)
        gateway = Gateway(ports, limits, origins)
        gateway.run()
        socket_io = SocketIoAdapter(gateway, origins=origins, limits=limits, clock=ports.clock)
        return cls(gateway, WebSocketAdapter(gateway), socket_io)

    def takes(self, scope: Scope) -> bool:
        """Say whether a connection is for one of these doors and not for the HTTP edge."""
        return scope["type"] == "websocket" or is_socket_io(scope)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Serve one connection that `takes` said yes to."""
        if is_socket_io(scope):
            await self.socket_io(scope, receive, send)
        elif scope["path"] == PATH:
            await self.websocket(scope, receive, send)
        else:
            await refuse_websocket(receive, send)

    async def close(self) -> None:
        """End every session, telling clients that the process ends. May be called again."""
        await self.gateway.close()
        await self.socket_io.close()


def is_socket_io(scope: Scope) -> bool:
    """Say whether a connection speaks Socket.IO."""
    path: str = scope["path"]
    return path.startswith(SOCKET_IO) and path[len(SOCKET_IO) :] in ("", "/")
