"""The guard of conftest.py: no test reaches beyond this machine."""

import asyncio
import socket
from pathlib import Path

import pytest


def test_name_of_another_machine_is_not_looked_up() -> None:
    with pytest.raises(Exception, match=r"reached for 'example\.org'"):
        socket.getaddrinfo("example.org", 443)


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "169.254.169.254"])
def test_connection_to_another_machine_is_refused_before_a_packet_leaves(address: str) -> None:
    with socket.socket() as one, pytest.raises(Exception, match="a test reached for"):
        one.connect((address, 80))
    with socket.socket() as one, pytest.raises(Exception, match="a test reached for"):
        one.connect_ex((address, 80))


def test_datagram_to_another_machine_is_refused() -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as one,
        pytest.raises(Exception, match="a test reached for"),
    ):
        one.sendto(b"x", ("192.0.2.1", 53))


def test_ipv6_beyond_loopback_is_refused() -> None:
    with (
        socket.socket(socket.AF_INET6) as one,
        pytest.raises(Exception, match="a test reached for"),
    ):
        one.connect(("2001:db8::1", 80, 0, 0))


async def test_asyncio_connects_to_loopback_and_no_further() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    with pytest.raises(Exception, match="a test reached for"):
        await asyncio.open_connection("192.0.2.1", 80)


def test_unix_sockets_are_free(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        caller.connect(str(tmp_path / "s"))
        assert caller.getpeername() == str(tmp_path / "s")
