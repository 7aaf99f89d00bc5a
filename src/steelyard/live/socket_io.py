"""Socket.IO on the namespace `/balance`: what clients of python-socketio and of the npm package speak.

python-socketio and python-engineio do the handshake, polling, upgrade and pings. Every frame from outside is checked
first, events leave through the queue of `engine_queue`, and every socket ends in bounded time. What is replaced in the
libraries, and how a new version of them is noticed: docs/decisions/0011-socket-io-seam.md.
"""

import asyncio
import time
from typing import Any, Protocol
from urllib.parse import parse_qs

from socketio.exceptions import ConnectionRefusedError as ConnectError

from steelyard.core.clock import Clock
from steelyard.live.admit import Origins
from steelyard.live.engine_connection import EngineConnection, Session
from steelyard.live.engine_frames import (
    NAMESPACE,
    Kind,
    MalformedFrame,
    Message,
    acknowledgement_frame,
    connect_error_frame,
    read_message,
    split_payload,
)
from steelyard.live.engine_queue import EngineQueue, ReadyEvent, ReadyPacket
from steelyard.live.engine_requests import (
    Receive,
    Scope,
    Send,
    once,
    read_body,
    refuse_request,
    sized,
    until_left,
)
from steelyard.live.engine_server import PING_TIMEOUT_S, ClientRegister, build_server
from steelyard.live.limits import LiveLimits
from steelyard.live.transport import Ending, Hello, Refused, Transport

IDLE_LIMIT_S = 20.0
"""How long a socket may be without a session."""
IDLE_MAX = 1_000
"""Sockets without a session; beyond that nobody new is let in for a moment."""
LOOK_INTERVAL_S = 2.0
CLOSING_S = 3.0
"""How long an ended socket has to take its last frames before its connection is cut."""
CONNECT_DEADLINE_S = 10.0
CONNECT_COST = 10
"""Packets that one CONNECT counts for: it asks for a token check and a read of the database."""


class Gateway(Protocol):
    """What is used of `steelyard.live.gateway.Gateway`."""

    async def open(self, hello: Hello, transport: Transport) -> Session:
        """See there."""
        ...


class SocketIoAdapter:
    """ASGI application for `/socket.io/`, http and websocket. Its look-out task starts with the first client."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        origins: Origins,
        limits: LiveLimits,
        clock: Clock,
        ping_timeout_s: float = PING_TIMEOUT_S,
    ) -> None:
        """Begin without clients; one that leaves a ping unanswered for `ping_timeout_s` is cut off."""
        self._gateway = gateway
        self._limits = limits
        self._clock = clock
        self._origins = origins
        self._is_closing = False
        self._look_out: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        """Tasks of WebSockets and long polls."""
        self._register = ClientRegister(self._opened)
        self._server = build_server(
            self._register,
            self._make_queue,
            is_origin_allowed=lambda origin, environ: origins.allows(
                origin, environ.get("HTTP_HOST")
            ),
            ping_s=(limits.heartbeat_s, ping_timeout_s),
        )
        self._engine = self._server.eio
        self._server.on("connect", self._connect, namespace=NAMESPACE)
        self._server.on("disconnect", self._disconnect, namespace=NAMESPACE)
        self._engine.on("connect", self._socket_opened)
        self._engine.on("message", self._hear)
        self._engine.on("disconnect", self._socket_closed)

    @property
    def open_sockets(self) -> int:
        """Engine.IO sockets that are open, with or without a session."""
        return len(self._engine.sockets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket below `/socket.io/`."""
        task = asyncio.current_task()
        assert task is not None, "ASGI applications run in tasks"
        self._serving.add(task)
        try:
            await self._serve(scope, receive, send)
        finally:
            self._serving.discard(task)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=20)
        except ValueError:
            await refuse_request(send, scope, 400, "the query has too many fields")
            return
        connection = self._find(query.get("sid", [""])[0])
        if "j" in query:
            await refuse_request(send, scope, 400, "JSONP is not offered")
        elif connection is None and "sid" not in query and not self._has_room():
            await refuse_request(send, scope, 503, "too many connections; come back later")
        elif connection is not None and connection.has_ended:
            await refuse_request(send, scope, 400, "this session has ended")
        elif connection is not None and scope["type"] == "websocket" and connection.driver:
            await refuse_request(send, scope, 400, "this session has its WebSocket")
        elif connection is None or scope["type"] == "websocket":
            await self._engine.handle_request(scope, receive, send)
        elif scope["method"] == "POST":
            await self._post(connection, scope, receive, send)
        elif scope["method"] == "GET":
            await self._poll(connection, scope, receive, send)
        else:
            await self._engine.handle_request(scope, receive, send)

    async def close(self) -> None:
        """End every session so that clients connect again elsewhere, and every task of ours."""
        self._is_closing = True
        for connection in self._connections():
            connection.end_all(Ending.SHUTTING_DOWN)
        await self._until_served()
        for connection in self._connections():
            self._cut(connection)
        await self._until_served()
        ours = [*self._tasks, *((self._look_out,) if self._look_out else ())]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)
        self._look_out = None

    async def _until_served(self) -> None:
        if self._serving:
            await asyncio.wait(tuple(self._serving), timeout=CLOSING_S)

    # What a connection asks for

    def forget_client(self, connection: EngineConnection) -> None:
        """Take a connection off the register of the namespace."""
        self._register.forget(connection.socket_id)

    def close_socket(self, connection: EngineConnection) -> None:
        """Have python-engineio close the socket, which forgets it."""
        socket = self._engine.sockets.get(connection.socket_id)
        if socket is not None:
            task = asyncio.create_task(socket.close(wait=False, abort=True))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # What the libraries call

    def _make_queue(self) -> EngineQueue:
        return EngineConnection(self, self._clock.monotonic_s).queue

    async def _socket_opened(self, socket_id: str, environ: dict[str, Any]) -> None:
        connection: EngineConnection = self._engine.sockets[socket_id].queue.owner
        connection.socket_id = socket_id
        connection.origin = environ.get("HTTP_ORIGIN")
        connection.host = environ.get("HTTP_HOST")
        query = parse_qs(environ.get("QUERY_STRING", ""))
        connection.token = query.get("token", [None])[0]
        await self._server.note_socket(socket_id)
        if self._look_out is None and not self._is_closing:
            self._look_out = asyncio.create_task(self._look())

    async def _socket_closed(self, socket_id: str, reason: str) -> None:
        socket = self._engine.sockets.get(socket_id)
        if socket is not None:
            connection: EngineConnection = socket.queue.owner
            connection.note_closed()
        self._register.forget(socket_id)
        await self._server.forget_socket(socket_id, reason)

    async def _hear(self, socket_id: str, text: object) -> None:
        connection = self._find(socket_id)
        if connection is None or connection.has_ended:
            return
        if not isinstance(text, str):
            connection.end_all(Ending.MALFORMED)
            return
        try:
            await self._do(connection, read_message(text), text)
        except MalformedFrame as error:
            self._complain(connection, error)
        except BaseException:
            connection.close()
            raise

    async def _do(self, connection: EngineConnection, message: Message, text: str) -> None:
        if message.namespace != NAMESPACE:
            self._refuse_namespace(connection, message)
        elif message.kind is Kind.EVENT:
            await self._event(connection, message)
        elif message.kind is Kind.DISCONNECT:
            await self._server.hear_packet(connection.socket_id, text)
        else:
            await self._ask_to_connect(connection, message, text)

    async def _ask_to_connect(
        self, connection: EngineConnection, message: Message, text: str
    ) -> None:
        now_s = self._clock.monotonic_s()
        if any(connection.budget.wait_s(now_s) for _ in range(CONNECT_COST)):
            connection.end_all(Ending.TOO_MANY)
        elif connection.is_connecting or connection.session is not None:
            raise MalformedFrame("this namespace is connected already")
        elif not isinstance(message.data, dict | None):
            frame = connect_error_frame(NAMESPACE, "auth must be an object", "malformed_frame")
            connection.queue.put_nowait(ReadyPacket(frame))
        else:
            await self._server.hear_packet(connection.socket_id, text)

    async def _connect(self, client: str, _: object, auth: dict[str, Any] | None) -> bool:
        """Open the session; python-socketio answers with CONNECT, or with `connect_error` to what is raised."""
        connection = self._find(self._register.eio_sid_from_sid(client, NAMESPACE) or "")
        if connection is None:
            return False
        connection.is_connecting = True
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                session = await self._gateway.open(_hello(connection, auth or {}), connection)
        except Refused as refused:
            if refused.ending in (Ending.FAILED, Ending.SHUTTING_DOWN):
                connection.close()
                return False
            raise ConnectError(str(refused), {"code": refused.ending.word}) from None
        except TimeoutError:
            connection.close()
            return False
        finally:
            connection.is_connecting = False
        if connection.has_ended or self._find(connection.socket_id) is None:
            session.leave()
            return False
        connection.session = session
        return True

    def _opened(self, socket_id: str) -> None:
        connection = self._find(socket_id)
        if connection is not None:
            connection.open()

    async def _disconnect(self, client: str, _: str) -> None:
        connection = self._find(self._register.eio_sid_from_sid(client, NAMESPACE) or "")
        if connection is not None:
            connection.leave()

    async def _event(self, connection: EngineConnection, message: Message) -> None:
        session = connection.session
        if session is None:
            if not connection.was_connected:
                connection.end(Ending.MALFORMED)
            return
        answer = await session.hear(message.name, message.data)
        if answer is not None and message.number is not None:
            frame = acknowledgement_frame(message.number, answer)
            session.put(ReadyEvent("acknowledgement", frame))

    def _complain(self, connection: EngineConnection, error: MalformedFrame) -> None:
        if connection.session is not None:
            connection.session.complain(error.code, str(error))
        else:
            connection.end_all(Ending.MALFORMED)

    def _refuse_namespace(self, connection: EngineConnection, message: Message) -> None:
        if message.kind is Kind.CONNECT:
            frame = connect_error_frame(
                message.namespace, f"there is no namespace here but {NAMESPACE}", "not_found"
            )
            connection.queue.put_nowait(ReadyPacket(frame))
        elif message.kind is Kind.EVENT:
            raise MalformedFrame("this namespace is not connected")

    # Requests of the polling transport

    async def _post(
        self, connection: EngineConnection, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Take a POST in if all its packets are sound; two at once end the session, as in the reference server."""
        if connection.is_posting:
            connection.close()
            await refuse_request(
                send, scope, 400, "another request of this session is being served"
            )
            return
        connection.is_posting = True
        try:
            body = await read_body(receive)
            packets = split_payload(body) if body is not None else [None]
            is_sound = all(connection.is_admitted(packet) for packet in packets)
        except MalformedFrame:
            connection.end_all(Ending.MALFORMED)
            is_sound = False
        else:
            if is_sound and body is not None:
                await self._engine.handle_request(sized(scope, body), once(body), send)
        finally:
            connection.is_posting = False
        if not is_sound:
            await refuse_request(send, scope, 400, "the request was not understood")

    async def _poll(
        self, connection: EngineConnection, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a long poll; when the client gives it up, its session ends and resumes by positions."""
        await receive()
        work = asyncio.create_task(self._engine.handle_request(scope, once(b""), send))
        watch = asyncio.create_task(until_left(receive))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                connection.close()
            await work
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    # The look-out

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            self._end_what_should()

    def _end_what_should(self) -> None:
        now_s = self._clock.monotonic_s()
        for connection in self._connections():
            if connection.ended_at_s is not None:
                if connection.driver is None or now_s - connection.ended_at_s > CLOSING_S:
                    self._cut(connection)
            elif self._is_silent(connection) or (
                connection.session is None and now_s - connection.idle_since_s > IDLE_LIMIT_S
            ):
                connection.close()

    def _is_silent(self, connection: EngineConnection) -> bool:
        """Whether a ping was not answered; python-engineio notes its time of the day."""
        socket = self._engine.sockets.get(connection.socket_id)
        sent_at: float | None = socket.last_ping if socket is not None else None
        return sent_at is not None and time.time() - sent_at > self._engine.ping_timeout

    def _cut(self, connection: EngineConnection) -> None:
        if connection.driver is not None:
            connection.driver.cut()
        self._engine.sockets.pop(connection.socket_id, None)

    def _find(self, socket_id: str) -> EngineConnection | None:
        socket = self._engine.sockets.get(socket_id)
        return None if socket is None else socket.queue.owner

    def _connections(self) -> list[EngineConnection]:
        return [socket.queue.owner for socket in tuple(self._engine.sockets.values())]

    def _has_room(self) -> bool:
        count = len(self._engine.sockets)
        is_open = not self._is_closing and count < self._limits.connections
        return is_open and count - len(self._register) < IDLE_MAX


def _hello(connection: EngineConnection, auth: dict[str, Any]) -> Hello:
    token, user = auth.get("token"), auth.get("user")
    if token is None or token == "":
        token = connection.token
    return Hello(
        transport="socket.io",
        token=token if isinstance(token, str) else None,
        origin=connection.origin,
        user=None if user is None else str(user),
        accounts=auth.get("accounts", "primary"),
        positions=auth.get("positions"),
        host=connection.host,
    )
