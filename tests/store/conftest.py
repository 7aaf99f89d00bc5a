"""A Valkey for the tests that need one, emptied before each."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.redis_kit import Valkey, running_valkey


@pytest_asyncio.fixture(scope="session")
async def shared_valkey() -> AsyncIterator[Valkey]:
    """A server that tests may use and none may break."""
    async with running_valkey() as started:
        yield started


@pytest_asyncio.fixture
async def valkey(shared_valkey: Valkey) -> Valkey:
    """The shared server, empty."""
    await shared_valkey.ask("FLUSHALL")
    return shared_valkey
