"""What waits for an Engine.IO socket is bounded, and events leave their outbox only when the writer can send."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import engineio
import pytest
import socketio
from engineio import async_server, async_socket, base_socket, exceptions, packet
from engineio.async_drivers import asgi
from engineio.payload import Payload

from steelyard.core.ids import AccountId
from steelyard.live.engine_queue import (
    CONTROL_LIMIT,
    DRAIN_LIMIT,
    EngineQueue,
    ReadyEvent,
    ReadyPacket,
)
from steelyard.live.events import LiveEvent
from steelyard.live.outbox import Outbox
from steelyard.live.pump import Pump


def make_queue(limit: int = 256) -> tuple[EngineQueue, Outbox, list[str]]:
    told: list[str] = []
    queue = EngineQueue(None, lambda: told.append("control"), lambda _: None)
    outbox = Outbox(queue.wake, lambda: told.append("outbox"), limit)
    return queue, outbox, told


def event(number: int) -> LiveEvent:
    return LiveEvent("step", str(number), AccountId(1), number)


def frame(number: int) -> str:
    return f'42/balance,["step",{number}]'


async def poll(queue: EngineQueue) -> list[Any]:
    """Ask for packets as python-engineio does: the library's own code."""
    server = type("Server", (), {"ping_interval": 0.05, "ping_timeout": 0.05})()
    asking = type("Socket", (), {"queue": queue, "server": server})()
    return list(await async_socket.AsyncSocket.poll(asking))


def frames(packets: list[Any]) -> list[str]:
    text: str = Payload(packets=packets).encode()
    return text.split("\x1e")


async def test_events_wait_in_the_outbox_until_the_client_is_connected() -> None:
    queue, outbox, _ = make_queue()
    outbox.put(event(1))
    queue.put_nowait(ReadyPacket("40/balance,{}"))
    assert frames(await poll(queue)) == ["40/balance,{}"]
    with pytest.raises(exceptions.QueueEmpty):
        await poll(queue)
    queue.attach(outbox)
    assert frames(await poll(queue)) == [frame(1)]


async def test_packets_of_the_protocol_go_before_events() -> None:
    queue, outbox, _ = make_queue()
    queue.attach(outbox)
    outbox.put(event(1))
    await queue.put(packet.Packet(packet.PING))
    assert frames(await poll(queue)) == ["2", frame(1)]


async def test_a_drain_hands_out_a_bounded_number_and_the_rest_stays_in_order() -> None:
    queue, outbox, _ = make_queue()
    queue.attach(outbox)
    for number in range(200):
        outbox.put(event(number))
    first = await poll(queue)
    assert frames(first) == [frame(number) for number in range(DRAIN_LIMIT)]
    assert len(outbox) == 200 - DRAIN_LIMIT
    rest = []
    while len(outbox):
        rest.extend(frames(await poll(queue)))
    assert rest == [frame(number) for number in range(DRAIN_LIMIT, 200)]


async def test_a_waiting_writer_gets_the_event_that_comes() -> None:
    queue, outbox, _ = make_queue()
    queue.attach(outbox)
    waiting = asyncio.ensure_future(poll(queue))
    await asyncio.sleep(0)
    outbox.put(event(1))
    outbox.put(event(2))
    assert frames(await waiting) == [frame(1), frame(2)]


async def test_a_cancelled_wait_loses_nothing() -> None:
    queue, outbox, _ = make_queue()
    queue.attach(outbox)
    waiting = queue.get()
    waiting.cancel()
    outbox.put(event(1))
    assert frames(await poll(queue)) == [frame(1)]


async def test_only_one_reader_may_wait() -> None:
    queue, outbox, _ = make_queue()
    queue.attach(outbox)
    waiting = queue.get()
    with pytest.raises(TimeoutError):
        await queue.get()
    outbox.put(event(1))
    assert (await waiting).encode() == frame(1)


async def test_what_ends_a_poll_before_an_upgrade_takes_no_events_with_it() -> None:
    queue, outbox, _ = make_queue()
    queue.attach(outbox)
    waiting = asyncio.ensure_future(poll(queue))
    await asyncio.sleep(0)
    await queue.put(packet.Packet(packet.NOOP))
    outbox.put(event(1))
    assert frames(await waiting) == ["6"]
    assert len(outbox) == 1
    assert frames(await poll(queue)) == [frame(1)]


async def test_the_end_lets_the_protocol_speak_and_no_event() -> None:
    queue, outbox, _ = make_queue()
    queue.attach(outbox)
    outbox.put(event(1))
    queue.put_nowait(ReadyPacket("1"))
    queue.put_nowait(None)
    queue.put_nowait(ReadyPacket("too late"))
    assert frames(await poll(queue)) == ["1"]
    assert await poll(queue) == []
    assert await poll(queue) == [], "the end stays the end, whoever asks"


async def test_too_many_packets_of_the_protocol_end_the_socket_once() -> None:
    queue, _, told = make_queue()
    for _ in range(10 * CONTROL_LIMIT):
        queue.put_nowait(packet.Packet(packet.PING))
    assert told == ["control"]
    queue.put_nowait(None)
    assert len(await poll(queue)) == CONTROL_LIMIT


async def test_an_acknowledgement_keeps_its_place_behind_earlier_events() -> None:
    queue, outbox, _ = make_queue()
    queue.attach(outbox)
    outbox.put(event(1))
    outbox.put(ReadyEvent("acknowledgement", '43/balance,7[{"balance":1}]'))
    outbox.put(event(2))
    assert frames(await poll(queue)) == [frame(1), '43/balance,7[{"balance":1}]', frame(2)]


async def test_a_websocket_gets_its_pump_after_what_the_writer_has_to_send() -> None:
    sent: list[Any] = []
    makers: list[Callable[[], LiveEvent | None]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    def make_pump(take: Callable[[], LiveEvent | None]) -> Pump:
        makers.append(take)
        return Pump(send, take, lambda one: {"text": one.frame("", "|", "")}, lambda: None)

    queue = EngineQueue(None, lambda: None, make_pump)
    outbox = Outbox(queue.wake, lambda: None)
    queue.put_nowait(ReadyPacket("0{}"))
    assert frames(await poll(queue)) == ["0{}"]
    assert makers == []
    writer = asyncio.ensure_future(poll(queue))
    await asyncio.sleep(0)
    assert len(makers) == 1
    queue.put_nowait(ReadyPacket("40/balance,{}"))
    queue.attach(outbox)
    outbox.put(event(1))
    assert [one["text"] for one in sent] == ["40/balance,{}", "step|1"], "at once, and in order"
    assert not writer.done()
    queue.put_nowait(packet.Packet(packet.PING))
    assert frames(await writer) == ["2"], "pings keep the writer from waiting in vain"
    queue.put_nowait(ReadyPacket("1"))
    queue.put_nowait(None)
    outbox.put(event(2))
    assert [one["text"] for one in sent[2:]] == ["1"]
    assert await poll(queue) == []


async def test_a_socket_that_is_not_read_leaves_everything_to_the_outbox() -> None:
    queue, outbox, told = make_queue(limit=50)
    queue.attach(outbox)
    for number in range(1000):
        outbox.put(event(number))
    assert told == ["outbox"]
    assert len(outbox) == 0


def test_the_libraries_still_meet_our_parts_as_written_down() -> None:
    """Fails when a new version of the libraries works otherwise; docs/decisions/0011-socket-io-seam.md says what to read."""
    source = inspect.getsource
    assert "self.queue = self.server.create_queue()" in source(base_socket.BaseSocket.__init__)
    for call in ("self.queue.get(),", "self.queue.get_nowait()", "self.queue.put_nowait(None)"):
        assert call in source(async_socket.AsyncSocket.poll)
    assert "packets == [None]" in source(async_socket.AsyncSocket.poll)
    upgrade = source(async_socket.AsyncSocket._upgrade_websocket)
    assert "self.server._async['websocket'](" in upgrade
    assert "self._websocket_handler, self.server)" in upgrade
    handler = source(async_socket.AsyncSocket._websocket_handler)
    assert "await ws.send(pkt.encode())" in handler
    assert "await self.queue.put(None)" in handler
    assert "await ws.wait()" in handler
    assert "await ws.close()" in handler
    assert "start_background_task(self._send_ping)" in source(
        async_socket.AsyncSocket.schedule_ping
    )
    assert "self.start_service_task = monitor_clients" in source(engineio.AsyncServer.__mro__[1])
    assert "run_async=self.server.async_handlers" in source(async_socket.AsyncSocket.receive)
    assert "environ['asgi.send']" in source(asgi.WebSocket.__call__)
    assert "await self.manager.connect(sid, namespace)" in source(
        socketio.AsyncServer._handle_connect
    )
    assert "self.environ[eio_sid] = environ" in source(socketio.AsyncServer._handle_eio_connect)
    assert set(asgi._async) == {"asyncio", "translate_request", "make_response", "websocket"}
    assert async_server.AsyncServer.create_queue.__qualname__ == "AsyncServer.create_queue"
