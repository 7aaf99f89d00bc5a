"""What an import works with, opened for one command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from steelyard.ledger.commit import GroupCommit
from steelyard.ledger.import_purchases import ImportPorts
from steelyard.ledger.publish import PublishChanges
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.database import Database

POOL_SIZE = 4


@asynccontextmanager
async def open_import_ports(url: str) -> AsyncIterator[ImportPorts]:
    """Open a pool and a group commit of its own; whoever serves hears of the changes by the relay.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    clock = SystemClock()
    database = await Database.open(url, pool_size=POOL_SIZE)
    publish = PublishChanges(InProcessBus(), InProcessCache(clock), clock)
    commit = GroupCommit(url, clock, publish)
    try:
        yield ImportPorts(database, commit, clock)
    finally:
        await commit.close()
        await database.close()
