"""Installs the npm clients before the first test that needs them, and starts them for tests."""

import platform
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio

from tests.browser.chromium import Browser, NoBrowser
from tests.browser.install import Clients, NoNode, NotInstalled, install_clients
from tests.browser.node_script import NodeScript
from tests.browser.socket_client import SocketClients

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
async def host_app(clients: Clients) -> AsyncIterator[NodeScript]:
    """Bundles and serves the React hook of the reference."""
    started = await NodeScript.start(clients, "serve_host_app.cjs")
    yield started
    await started.stop()
