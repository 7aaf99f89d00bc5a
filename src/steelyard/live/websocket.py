"""The plain WebSocket at `/balance`: flat JSON frames, accepted first and closed with a code that browsers can read."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from steelyard.live.cut_connection import abort_connection
from steelyard.live.events import LiveEvent
from steelyard.live.gateway import Gateway
from steelyard.live.limits import FRAME_BYTES_MAX
from steelyard.live.pump import Message, Pump
from steelyard.live.session import Session
from steelyard.live.transport import Ending, Hello, Refused

PATH: Final = "/balance"
CLOSE_DEADLINE_S = 2.0
"""How long the close code may wait behind bytes that the client does not read."""

_decode = msgspec.json.Decoder().decode


def hello_of(query: bytes, transport: str, headers: Mapping[bytes, bytes]) -> Hello:
    """Read what a client says in its query: `token`, `positions` (JSON), `accounts`, `user`.

    Raises:
        Refused: The query cannot be read.
    """
    try:
        text = query.decode("ascii")
        given = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=32))
        positions = _decode(given["positions"]) if given.get("positions") else {}
    except (ValueError, RecursionError):
        raise Refused(Ending.MALFORMED, why="the query cannot be read") from None
    return Hello(
        transport=transport,
        token=given.get("token"),
        origin=_text(headers.get(b"origin")),
        user=given.get("user"),
        accounts=given.get("accounts"),
        positions=positions,
        host=_text(headers.get(b"host")),
    )


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")


def _flat(event: LiveEvent) -> str:
    return f'{{"event":"{event.name}",{event.payload[1:]}'


def _frame(event: LiveEvent) -> Message:
    return {"type": "websocket.send", "text": event.framed("flat", _flat)}


def _close(ending: Ending, why: str = "") -> Message:
    # A reason has room for 123 bytes; ours are ASCII but for what clients named.
    reason = (why or ending.word).encode("ascii", "replace")[:120].decode()
    return {"type": "websocket.close", "code": ending.close_code, "reason": reason}


@dataclass(slots=True, eq=False)
class Connection:
    """One WebSocket. The gateway's `Transport`."""

    receive: Receive
    send: Send
    session: Session | None = None
    pump: Pump | None = None
    is_cut: bool = False
    _task: "asyncio.Task[Any] | None" = None
    _closing: "asyncio.Task[None] | None" = None

    def wake(self) -> None:
        """Send what waits."""
        if self.pump is not None:
            self.pump.wake()

    def end(self, ending: Ending) -> None:
        """Close with the code of `ending`; cut the connection if it does not take it in time."""
        self._closing = asyncio.create_task(self._close(ending))

    async def run(self, gateway: Gateway, hello: Hello) -> None:
        """Serve the connection until it ends.

        Raises:
            Refused: The gateway does not let it in.
        """
        self._task = asyncio.current_task()
        session = self.session = await gateway.open(hello, self)
        self.pump = Pump(self.send, session.take, _frame, session.leave)
        session.start()
        try:
            while (message := await self.receive())["type"] != "websocket.disconnect":
                await hear_frame(session, message)
        except asyncio.CancelledError:
            if not self.is_cut:
                raise
        finally:
            session.leave()
            if self._closing is not None:
                await asyncio.wait({self._closing}, timeout=CLOSE_DEADLINE_S + 1)

    async def _close(self, ending: Ending) -> None:
        assert self.pump is not None, "a session ends after it was opened"
        assert self._task is not None, "it runs"
        if not await self.pump.stop(_close(ending), deadline_s=CLOSE_DEADLINE_S):
            abort_connection(self.send)
            self.is_cut = True
            self._task.cancel()


async def hear_frame(session: Session, message: Any) -> None:
    """Do what a frame asks for; one that makes no sense is told to the client."""
    text = message.get("text")
    if text is None:
        session.complain("binary_frame", "frames are JSON text")
    elif len(text) > FRAME_BYTES_MAX or len(text.encode()) > FRAME_BYTES_MAX:
        session.complain("frame_too_large", f"frames have at most {FRAME_BYTES_MAX} bytes")
    else:
        try:
            frame = _decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            frame = None
        name = frame.pop("event", None) if isinstance(frame, dict) else None
        if isinstance(name, str):
            await session.hear(name, frame)
        else:
            session.complain("malformed_frame", 'frames are JSON objects with an "event"')


@dataclass(slots=True, eq=False)
class WebSocketAdapter:
    """The ASGI application of the plain WebSocket."""

    gateway: Gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; refused ones are accepted and closed, which is what a browser can read."""
        if (await receive())["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept"})
        connection = Connection(receive, send)
        try:
            hello = hello_of(scope["query_string"], "websocket", dict(scope["headers"]))
            await connection.run(self.gateway, hello)
        except Refused as refused:
            await send(_close(refused.ending, str(refused)))
        except OSError:
            return  # the client has gone


async def refuse_websocket(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket on a path that has none: the client sees HTTP 403."""
    await receive()
    await send({"type": "websocket.close", "code": 4404})
