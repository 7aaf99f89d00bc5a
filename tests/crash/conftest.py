"""A PostgreSQL for the crash proof alone, so that killing it hurts no other test."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.crash.postgres import PostgresUnderFire
from tests.world import FreshDatabase

Announce = Callable[[str], None]
_ANNOUNCED = pytest.StashKey[list[str]]()


@pytest.fixture
def announce(request: pytest.FixtureRequest) -> Announce:
    """Say a line that stands at the end of the test run."""
    lines = request.config.stash.setdefault(_ANNOUNCED, [])
    return lines.append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what the crash proof did."""
    lines = config.stash.get(_ANNOUNCED, [])
    if lines:
        terminalreporter.section("crash proof")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def crash_folder() -> Iterator[Path]:
    """A private folder with a path short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="sycrash"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="session")
async def postgres(crash_folder: Path) -> AsyncIterator[PostgresUnderFire]:
    """A server that may be killed; with STEELYARD_DATABASE_URL that server, which only loses connections."""
    given = os.environ.get("STEELYARD_DATABASE_URL")
    made = await PostgresUnderFire.start(crash_folder / "db", given=given)
    yield made
    await made.stop()


@pytest_asyncio.fixture(scope="session")
async def own_postgres(
    postgres: PostgresUnderFire, crash_folder: Path
) -> AsyncIterator[PostgresUnderFire]:
    """A server that may be killed, whatever server the other tests were given."""
    if postgres.can_be_killed:
        yield postgres
        return
    made = await PostgresUnderFire.start(crash_folder / "own")
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def place(postgres: PostgresUnderFire) -> AsyncIterator[FreshDatabase]:
    """A migrated, empty database on that server."""
    await postgres.wait_ready()
    fresh = await postgres.fresh()
    yield fresh
    await postgres.wait_ready()
    await postgres.drop(fresh)


@pytest.fixture
def folder(crash_folder: Path) -> Iterator[Path]:
    """A folder for one test's sockets and logs."""
    made = Path(tempfile.mkdtemp(dir=crash_folder))
    yield made
    shutil.rmtree(made, ignore_errors=True)
