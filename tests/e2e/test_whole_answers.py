"""What a client sees on the wire: one piece, in order, and closed when it asked for that."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from steelyard.runtime.whole_answers import WholeAnswers
from tests.e2e.server_kit import Server

LIVE = b"GET /livez HTTP/1.1\r\nHost: here\r\n"
BODY = b'{"status":"alive"}'
LATE_S = 20.0


@asynccontextmanager
async def connected(
    server: Server,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the server, byte by byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        async with asyncio.timeout(LATE_S):
            yield reader, writer
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return head and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    return head, await reader.readexactly(length)


async def test_requests_sent_at_once_are_answered_in_order(server: Server) -> None:
    async with connected(server) as (reader, writer):
        for number in range(50):
            writer.write(LIVE + b"X-Request-Id: number-%d\r\n\r\n" % number)
        for number in range(50):
            head, body = await read_answer(reader)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nx-request-id: number-%d\r\n" % number in head
            assert body == BODY


async def test_an_answer_to_head_has_the_length_and_no_body(server: Server) -> None:
    async with connected(server) as (reader, writer):
        writer.write(b"HEAD /livez HTTP/1.1\r\nHost: here\r\n\r\n" + LIVE + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\ncontent-length: %d\r\n" % len(BODY) in head
        head, body = await read_answer(reader)
        assert (head[:15], body) == (b"HTTP/1.1 200 OK", BODY)


async def test_a_connection_is_closed_when_the_client_asked_for_it(server: Server) -> None:
    for request in (LIVE + b"Connection: close\r\n\r\n", b"GET /livez HTTP/1.0\r\n\r\n"):
        async with connected(server) as (reader, writer):
            writer.write(request)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert b"\r\nconnection: close" in head
            assert body == BODY


async def test_a_kept_connection_says_nothing_of_closing(server: Server) -> None:
    async with connected(server) as (reader, writer):
        for _ in range(2):
            writer.write(LIVE + b"\r\n")
            head, body = await read_answer(reader)
            assert b"connection" not in head.lower()
            assert body == BODY


async def count_of(server: Server, route: str) -> int:
    """How many requests of a route the server has answered."""
    text = (await server.call("GET", "/metrics", headers={})).text
    found = re.search(rf'requests_total\{{method="GET",route="{route}",status="200"\}} (\d+)', text)
    return int(found[1]) if found else 0


async def test_who_reads_nothing_is_answered_no_further_than_its_buffers(server: Server) -> None:
    """Answers that nobody takes wait in the server, one of them at a time."""
    asked, before = 300, await count_of(server, "/openapi.json")
    async with connected(server) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * asked)
        answered = [-1, 0]
        while answered[-1] == 0 or answered[-1] != answered[-2]:
            await asyncio.sleep(0.3)
            answered.append(await count_of(server, "/openapi.json") - before)
        assert answered[-1] < asked / 2
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        bodies = {(await read_answer(reader))[1] for _ in range(asked)}
    assert len(bodies) == 1
    assert await count_of(server, "/openapi.json") - before == asked


async def test_a_head_without_end_is_refused(server: Server) -> None:
    """Neither one endless line nor endless lines are kept: 431, and the connection is closed."""
    for endless in (b"a" * 4_096, b"a: b\r\n" * 700):
        async with connected(server) as (reader, writer):
            writer.write(LIVE + (b"" if b"\n" in endless else b"X-Long: "))
            with suppress(ConnectionError):
                for _ in range(200):
                    writer.write(endless)
                    await writer.drain()
                    if reader.at_eof():
                        break
            with suppress(ConnectionError):  # what was still on its way may have reset it
                answer = await reader.read()
                assert not answer or answer.startswith(b"HTTP/1.1 431 ")
        assert (await server.call("GET", "/livez", headers={})).status_code == 200


async def test_a_handshake_too_long_for_websockets_is_answered(server: Server) -> None:
    """The WebSocket's own parser would leave such a client waiting for ever."""
    upgrade = (
        b"Host: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    async with connected(server) as (reader, writer):
        writer.write(b"GET /balance?positions=" + b"1" * 15_000 + b" HTTP/1.1\r\n" + upgrade)
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")


async def test_a_head_has_to_arrive_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte, half a line, or half a head after a first answer: 408, and the connection is closed."""
    monkeypatch.setattr("steelyard.runtime.whole_answers.HEAD_DEADLINE_S", 0.2)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(answer, http=WholeAnswers, lifespan="off", log_config=None)
    listening = await asyncio.get_running_loop().create_server(
        partial(_protocol_of, config), "127.0.0.1", 0
    )
    try:
        port = listening.sockets[0].getsockname()[1]
        for first in (b"", b"GET /li", LIVE, LIVE + b"\r\n" + LIVE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            async with asyncio.timeout(LATE_S):
                told = await reader.read()
            writer.close()
            expected = [b"204 ", b"408 "] if b"\r\n\r\n" in first else [b"408 "]
            assert [part[:4] for part in told.split(b"HTTP/1.1 ")[1:]] == expected
    finally:
        listening.close()


def _protocol_of(config: uvicorn.Config) -> WholeAnswers:
    if not config.loaded:
        config.load()
    return WholeAnswers(config=config, server_state=ServerState(), app_state={})
