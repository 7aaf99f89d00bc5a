"""What holds for every test: no network beyond this machine."""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class NetworkForbidden(Exception):
    """A test reached for the network beyond loopback."""

    def __init__(self, host: object) -> None:
        super().__init__(f"a test reached for {host!r}; only loopback and Unix sockets are allowed")


def is_on_this_machine(host: object) -> bool:
    """Whether a host, as given to a socket call, needs no network: loopback, or the wildcard to listen on."""
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name is None or name in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _check_address(family: int, address: object) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
        host = address[0]
        if not is_on_this_machine(host):
            raise NetworkForbidden(host)


def _guarded(original: Callable[..., Any], *, address_at: int) -> Callable[..., Any]:
    def call(self: socket.socket, *arguments: Any) -> Any:
        _check_address(self.family, arguments[address_at] if arguments else None)
        return original(self, *arguments)

    return call


@pytest.fixture(scope="session", autouse=True)
def no_network_beyond_loopback() -> Iterator[None]:
    """Make every connection, datagram and name look-up beyond loopback fail at once."""
    look_up = socket.getaddrinfo

    def guarded_look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if not is_on_this_machine(host):
            raise NetworkForbidden(host)
        return look_up(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        for name, address_at in (("connect", 0), ("connect_ex", 0), ("sendto", -1)):
            original = getattr(socket.socket, name)
            patch.setattr(socket.socket, name, _guarded(original, address_at=address_at))
        yield
