"""What holds for every test: no network beyond this machine; a real database where one is asked for."""

import asyncio
import ipaddress
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from steelyard.runtime.database import Database
from steelyard.runtime.embedded.server import stop_embedded_postgres
from steelyard.runtime.embedded.start import start_embedded_postgres
from tests.world import FreshDatabase, World, drop_database, make_fresh, make_template


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


@pytest.fixture(scope="session")
def admin_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A superuser's URL of a real PostgreSQL: the server of STEELYARD_DATABASE_URL, or an embedded one."""
    given = os.environ.get("STEELYARD_DATABASE_URL")
    if given:
        yield given
        return
    folder = tmp_path_factory.mktemp("postgres") / "data"
    server = start_embedded_postgres(folder, report=lambda _: None)
    try:
        yield server.address.url()
    finally:
        stop_embedded_postgres(server)


@pytest.fixture(scope="session")
def template(admin_url: str) -> Iterator[str]:
    """The name of a migrated database that every test's own database is copied from."""
    name = f"sy_template_{secrets.token_hex(4)}"
    asyncio.run(make_template(admin_url, name))
    yield name
    asyncio.run(drop_database(admin_url, name))


@pytest_asyncio.fixture
async def fresh(admin_url: str, template: str) -> AsyncIterator[FreshDatabase]:
    """A migrated, empty database of the test's own, with both ways in."""
    made = await make_fresh(admin_url, template)
    yield made
    await drop_database(admin_url, made.name)


@pytest_asyncio.fixture
async def database(fresh: FreshDatabase) -> AsyncIterator[Database]:
    """A pool on a fresh database, logged in as the application's role."""
    opened = await Database.open(fresh.app_url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def world(database: Database, fresh: FreshDatabase) -> AsyncIterator[World]:
    """The ledger with all its parts on a fresh database, default tenant, book in GBP."""
    made = await World.open(database, fresh)
    yield made
    await made.close()
