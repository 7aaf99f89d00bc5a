"""A key set is fetched whole and in time, or not at all."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from steelyard.access.errors import KeySetUnavailable
from steelyard.access.fetch_key_set import KEY_SET_BYTES_MAX, fetch_key_set, key_set_source

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """A server that reads one request and answers it its own way."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/keys"
    finally:
        server.close()
        await server.wait_closed()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return answer


async def dribble(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def test_body_is_returned_whole() -> None:
    async with serving(whole(b'{"keys":[]}')) as address:
        assert await key_set_source(address)() == b'{"keys":[]}'


async def test_dribbling_server_is_cut_at_the_total_deadline() -> None:
    async with serving(dribble) as address:
        started = time.monotonic()
        with pytest.raises(KeySetUnavailable, match=r"within 0\.3 s"):
            await fetch_key_set(address, deadline_s=0.3)
        assert time.monotonic() - started < 1.5


async def test_endless_body_is_cut_at_the_cap() -> None:
    async with serving(endless) as address:
        with pytest.raises(KeySetUnavailable, match="larger than"):
            await fetch_key_set(address)


async def test_compressed_body_is_refused_unread() -> None:
    bomb = gzip.compress(b" " * (KEY_SET_BYTES_MAX * 100))
    async with serving(whole(bomb, "Content-Encoding: gzip")) as address:
        with pytest.raises(KeySetUnavailable, match="compressed"):
            await fetch_key_set(address)


async def test_redirect_is_not_followed() -> None:
    async with serving(whole(b'{"keys":[]}')) as target:
        redirect = whole(b"", f"Location: {target}", status="302 Found")
        async with serving(redirect) as address:
            with pytest.raises(KeySetUnavailable, match="302"):
                await fetch_key_set(address)


async def test_refused_connection_is_unavailable_and_its_password_is_not_told() -> None:
    async with serving(whole(b"")) as address:
        closed = address.replace("127.0.0.1", "user:s3cret@127.0.0.1") + "?token=s3cret"
    with pytest.raises(KeySetUnavailable) as refused:
        await fetch_key_set(closed)
    assert "s3cret" not in str(refused.value)


async def test_key_set_in_a_file_is_read_up_to_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(KeySetUnavailable):
        await key_set_source(str(path))()
    path.write_text(json.dumps({"keys": []}))
    assert await key_set_source(str(path))() == b'{"keys": []}'
    assert await key_set_source(path.as_uri())() == b'{"keys": []}'
    path.write_bytes(b" " * (KEY_SET_BYTES_MAX + 1))
    with pytest.raises(KeySetUnavailable, match="larger than"):
        await key_set_source(str(path))()
