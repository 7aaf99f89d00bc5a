"""Installs the npm clients before the first test that needs them, and starts them for tests."""

import platform
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio

from steelyard.core.ids import DEFAULT_TENANT
from steelyard.runtime.database import Connection, Database, connect
from tests.browser.chromium import Browser, NoBrowser
from tests.browser.install import Clients, NoNode, NotInstalled, install_clients
from tests.browser.node_script import NodeScript
from tests.browser.socket_client import SocketClients
from tests.browser.wscat import Wscat
from tests.e2e.database_proxy import DatabaseProxy
from tests.e2e.scene import Scene
from tests.e2e.server_kit import Server, free_port, start_server
from tests.world import FreshDatabase, World, drop_database, make_fresh

HERE = Path(__file__).parent
_READY = pytest.StashKey[Clients | NoNode | NotInstalled]()
_MISSING = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install before the tests begin: a test's own deadline is not for downloads."""
    config = session.config
    if config.option.collectonly or not any(HERE in item.path.parents for item in session.items):
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    try:
        config.stash[_READY] = install_clients(reporter.write_line)
    except (NoNode, NotInstalled) as error:
        config.stash[_READY] = error


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say plainly what could not be tested here."""
    if missing := config.stash.get(_MISSING, None):
        terminalreporter.write_line(f"skipped, not tested here: {missing}", yellow=True)


def _skip(config: pytest.Config, reason: Exception) -> NoReturn:
    config.stash[_MISSING] = str(reason)
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def clients(pytestconfig: pytest.Config) -> Clients:
    """The installed npm clients. Skips where the platform has no Node.js; fails where npm failed."""
    ready = pytestconfig.stash[_READY]
    if isinstance(ready, NoNode):
        _skip(pytestconfig, ready)
    if isinstance(ready, NotInstalled):
        pytest.fail(str(ready), pytrace=False)
    assert isinstance(ready, Clients), platform.platform()
    return ready


@pytest_asyncio.fixture(scope="session")
async def browser(
    clients: Clients, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Browser]:
    """One Chromium for all tests; each opens pages of its own. Skips where the platform has no browser."""
    try:
        started = await Browser.start(clients, tmp_path_factory.mktemp("chromium"))
    except NoBrowser as error:
        _skip(pytestconfig, error)
    yield started
    await started.stop()


@pytest_asyncio.fixture
async def sockets(clients: Clients) -> AsyncIterator[SocketClients]:
    """A process with the npm socket.io-client."""
    started = await SocketClients.start(clients)
    yield started
    await started.stop()


@pytest_asyncio.fixture(scope="session")
async def host_app(clients: Clients) -> AsyncIterator[str]:
    """Serves the React hook of the reference; returns the application's origin."""
    started, port = await NodeScript.start(clients, "serve_host_app.cjs"), free_port()
    await started.call("serve", port)
    yield f"http://localhost:{port}"
    await started.stop()


@pytest_asyncio.fixture
async def wscat(clients: Clients) -> AsyncIterator[Callable[[str], Awaitable[Wscat]]]:
    """Runs `wscat -c URL`; whatever still runs at the end is ended."""
    started: list[Wscat] = []

    async def run(url: str) -> Wscat:
        started.append(await Wscat.start(clients, url))
        return started[-1]

    yield run
    for one in started:
        await one.stop()


@pytest_asyncio.fixture(scope="session")
async def product_database(admin_url: str, template: str) -> AsyncIterator[FreshDatabase]:
    """The database behind the product: one tenant with a book in GBP."""
    fresh = await make_fresh(admin_url, template)
    database = await Database.open(fresh.app_url, pool_size=2)
    world = await World.open(database, fresh)
    await world.make_tenant(DEFAULT_TENANT, "GBP")
    await world.close()
    await database.close()
    yield fresh
    await drop_database(admin_url, fresh.name)


@pytest_asyncio.fixture(scope="session")
async def product(
    product_database: FreshDatabase, host_app: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """A server that the pages of `host_app`, and no others, may speak to."""
    folder, settings = tmp_path_factory.mktemp("product"), {"STEELYARD_LIVE_ORIGINS": host_app}
    started = await start_server(product_database.app_url, folder, settings=settings)
    yield started
    await started.stop()
    assert '"event":"server.stopped"' in started.log_lines()[-1]
    log = started.log.read_text()
    assert '"level":"error"' not in log
    assert "eyJ" not in log, "how every token begins"


@pytest_asyncio.fixture(scope="session")
async def superuser(product_database: FreshDatabase) -> AsyncIterator[Connection]:
    """Looks behind the wall: what is really written."""
    connection = await connect(product_database.admin_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def scene(product: Server, superuser: Connection) -> Scene:
    """Makes users, accounts and money through the API."""
    return Scene(product, superuser)


@pytest_asyncio.fixture
async def cable() -> AsyncIterator[Callable[[str], Awaitable[DatabaseProxy]]]:
    """Lays a cable to a server's URL, to be pulled (`go_away`) and put back (`come_back`); clients use its `port`."""
    laid: list[DatabaseProxy] = []

    async def lay(url: str) -> DatabaseProxy:
        laid.append(DatabaseProxy(url))
        await laid[-1].open()
        return laid[-1]

    yield lay
    for one in laid:
        await one.close()
