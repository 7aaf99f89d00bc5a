"""One server for all end-to-end tests that share it; each test makes its own users and accounts."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.runtime.database import Connection, Database, connect
from tests.e2e.scene import Scene
from tests.e2e.server_kit import Server, start_server
from tests.world import FreshDatabase, World, drop_database, make_fresh


@pytest_asyncio.fixture(scope="session")
async def shared_database(admin_url: str, template: str) -> AsyncIterator[FreshDatabase]:
    """The database behind the shared server: two tenants, books in GBP and JPY."""
    fresh = await make_fresh(admin_url, template)
    database = await Database.open(fresh.app_url, pool_size=2)
    world = await World.open(database, fresh)
    await world.make_tenant(TenantId("other"), "GBP")
    await world.make_tenant(DEFAULT_TENANT, "GBP", "JPY")
    await world.close()
    await database.close()
    yield fresh
    await drop_database(admin_url, fresh.name)


@pytest_asyncio.fixture(scope="session")
async def server(
    shared_database: FreshDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """A server that all tests may use and none may break."""
    started = await start_server(shared_database.app_url, tmp_path_factory.mktemp("server"))
    yield started
    await started.stop()
    assert '"event":"server.stopped"' in started.log_lines()[-1]


@pytest_asyncio.fixture(scope="session")
async def superuser(shared_database: FreshDatabase) -> AsyncIterator[Connection]:
    """Looks behind the wall: what is really written."""
    connection = await connect(shared_database.admin_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def scene(server: Server, superuser: Connection) -> Scene:
    """Makes users, accounts and money through the API."""
    return Scene(server, superuser)
