"""python-engineio and python-socketio with our parts at their seams: the queue, the WebSocket, the register of clients."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import engineio
import socketio
import structlog
from engineio.payload import Payload

from steelyard.live.engine_frames import NAMESPACE, PACKETS_LIMIT
from steelyard.live.engine_queue import EngineQueue
from steelyard.live.engine_socket import EngineWebSocket
from steelyard.live.limits import FRAME_BYTES_MAX

PING_TIMEOUT_S = 20.0

_log = structlog.get_logger(__name__)


class BalanceEngine(engineio.AsyncServer):  # type: ignore[misc]
    """Engine.IO with a queue of ours in every socket, and the socket's timers ended with it."""

    make_queue: Callable[[], EngineQueue]

    def use_our_parts(self, make_queue: Callable[[], EngineQueue]) -> None:
        """Give every socket our queue and WebSocket, and every answer of polling our headers."""
        self.make_queue = make_queue
        self._async: dict[str, Any] = {
            **self._async,
            "websocket": EngineWebSocket,
            "make_response": _private_response(self._async["make_response"]),
        }

    def create_queue(self, *_: object, **__: object) -> EngineQueue:
        """Return the queue of a new socket."""
        return self.make_queue()

    def start_background_task(
        self, target: Callable[..., Any], *inputs: Any, **options: Any
    ) -> "asyncio.Task[Any]":
        """Start a task; one that belongs to a socket (its ping timer) is known to the socket's owner."""
        task: asyncio.Task[Any] = super().start_background_task(target, *inputs, **options)
        queue = getattr(getattr(target, "__self__", None), "queue", None)
        if isinstance(queue, EngineQueue):
            queue.owner.keep(task)
        return task


class BalanceServer(socketio.AsyncServer):  # type: ignore[misc]
    """Socket.IO on `BalanceEngine`, with its handlers of Engine.IO events callable by us."""

    async def note_socket(self, socket_id: str) -> None:
        """Know a new Engine.IO socket; of its request nothing is kept."""
        await self._handle_eio_connect(socket_id, {})

    async def hear_packet(self, socket_id: str, text: str) -> None:
        """Do what a Socket.IO packet asks for."""
        await self._handle_eio_message(socket_id, text)

    async def forget_socket(self, socket_id: str, reason: str) -> None:
        """Disconnect the client of a socket that has gone."""
        await self._handle_eio_disconnect(socket_id, reason)

    def _engineio_server_class(self) -> type[BalanceEngine]:
        return BalanceEngine


class ClientRegister(socketio.AsyncManager):  # type: ignore[misc]
    """Who is connected to `/balance`: two dictionaries.

    The manager of python-socketio keeps rooms and looks through all of them whenever somebody leaves; here nobody emits
    to rooms. `opened` is called with the Engine.IO id once the client has been told that it is connected.
    """

    def __init__(self, opened: Callable[[str], None]) -> None:
        """Begin without clients."""
        super().__init__()
        self._opened = opened
        self._engine_ids: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._half: set[str] = set()
        """Being connected, or being disconnected."""

    def __len__(self) -> int:
        return len(self._engine_ids)

    def get_namespaces(self) -> list[str]:
        """Return the one namespace there is."""
        return [NAMESPACE]

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        """Take a client in, not yet connected; None if it is there already."""
        if namespace != NAMESPACE or eio_sid in self._ids:
            return None
        client: str = self.server.eio.generate_id()
        self._engine_ids[client], self._ids[eio_sid] = eio_sid, client
        self._half.add(client)
        return client

    async def connect(self, sid: str, namespace: str) -> str:
        """Mark a client as connected: its CONNECT packet has been put."""
        self._half.discard(sid)
        engine_id = self._engine_ids.get(sid)
        if engine_id is not None:
            self._opened(engine_id)
        return sid

    def is_connected(self, sid: str | None, namespace: str) -> bool:
        """Whether a client is connected, and not about to leave."""
        return sid in self._engine_ids and sid not in self._half

    async def can_disconnect(self, sid: str, namespace: str) -> bool:
        """Whether there is somebody to disconnect."""
        return self.is_connected(sid, namespace)

    def sid_from_eio_sid(self, eio_sid: str, namespace: str) -> str | None:
        """Return a client's id on the namespace."""
        return self._ids.get(eio_sid) if namespace == NAMESPACE else None

    def eio_sid_from_sid(self, sid: str, namespace: str) -> str | None:
        """Return the id of the Engine.IO socket of a client."""
        return self._engine_ids.get(sid)

    def pre_disconnect(self, sid: str, namespace: str) -> str | None:
        """Mark a client as leaving."""
        if sid in self._engine_ids:
            self._half.add(sid)
        return self._engine_ids.get(sid)

    async def disconnect(self, sid: str, namespace: str, **_: object) -> None:
        """Forget a client."""
        self.forget(self._engine_ids.get(sid, ""))

    def forget(self, engine_id: str) -> None:
        """Forget the client of an Engine.IO socket."""
        client = self._ids.pop(engine_id, None)
        if client is not None:
            self._engine_ids.pop(client, None)
            self._half.discard(client)


def build_server(
    register: ClientRegister,
    make_queue: Callable[[], EngineQueue],
    *,
    is_origin_allowed: Callable[[str, dict[str, Any]], bool],
    ping_s: tuple[float, float],
) -> BalanceServer:
    """Return a server whose sockets have our queue and WebSocket; it starts no task before somebody comes.

    `ping_s` is how often clients are pinged and how long they may take to answer. The library's own look-out for
    silent clients is off: it wakes once for each of them, ours once for all.
    """
    Payload.max_decode_packets = PACKETS_LIMIT  # the documented way, for the whole process
    server = BalanceServer(
        client_manager=register,
        async_mode="asgi",
        async_handlers=False,
        logger=_quiet_logger("socketio"),
        engineio_logger=_quiet_logger("engineio"),
        cors_allowed_origins=is_origin_allowed,
        max_http_buffer_size=FRAME_BYTES_MAX,
        ping_interval=ping_s[0],
        ping_timeout=ping_s[1],
        http_compression=False,
        cookie=None,
        monitor_clients=False,
    )
    server.eio.use_our_parts(make_queue)
    return server


def _private_response(make_response: Callable[..., Any]) -> Callable[..., Any]:
    async def respond(
        status: str, headers: list[tuple[str, str]], payload: bytes, environ: dict[str, Any]
    ) -> Any:
        """Answer as python-engineio does, and let nobody keep the answer."""
        return await make_response(
            status, [*headers, ("Cache-Control", "no-store")], payload, environ
        )

    return respond


def _quiet_logger(library: str) -> logging.Logger:
    """Return a logger of failures only: at INFO the libraries log every packet, tokens included."""
    quiet = logging.getLogger(f"steelyard.live.{library}")
    quiet.setLevel(logging.ERROR)
    quiet.propagate = False
    quiet.handlers = [_Failures()]
    return quiet


class _Failures(logging.Handler):
    """Logs exceptions the libraries caught; what they say of clients' mistakes is left out, it may hold anything."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            _log.error("live.library_failed", library=record.name, exc_info=record.exc_info[1])
