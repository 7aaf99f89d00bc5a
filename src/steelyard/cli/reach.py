"""Reaches the database for the time of one command: the one in the settings, or the data folder's."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from steelyard.cli.outcome import CommandFailed, say
from steelyard.runtime.database import Database
from steelyard.runtime.instance import reach_embedded
from steelyard.runtime.migrate import SchemaBehind, find_revision, newest_revision

if TYPE_CHECKING:
    from steelyard.runtime.bus import InProcessBus
    from steelyard.runtime.redis import RedisLink
    from steelyard.runtime.settings import Settings

POOL_SIZE = 4


@asynccontextmanager
async def reach_url(settings: "Settings") -> AsyncIterator[str]:
    """Give the product's address of the database: STEELYARD_DATABASE_URL, else the data folder's.

    A data folder without a running instance gets its PostgreSQL started for this command.

    Raises:
        DataFolderMissing: Neither is there.
        SchemaBehind: The database was not migrated to this release.
    """
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        await check_schema(url)
        yield url
        return
    async with reach_embedded(settings.data_dir, report=lambda line: say(f"  {line}")) as url:
        yield url


@asynccontextmanager
async def reach_database(settings: "Settings") -> AsyncIterator[Database]:
    """Give a small pool on the database; see `reach_url`.

    Raises:
        DatabaseUnavailable: It does not answer.
    """
    async with reach_url(settings) as url:
        database = await Database.open(url, pool_size=POOL_SIZE)
        try:
            yield database
        finally:
            await database.close()


@asynccontextmanager
async def reach_redis(
    settings: "Settings", database: Database, bus: "InProcessBus"
) -> AsyncIterator["RedisLink | None"]:
    """Give cache and channel of the servers: the Redis in the settings, else the Valkey of the `up` that runs here.

    What is published on `bus` inside is told to them. None where there is neither.
    """
    from steelyard.balances.account_owners import KnownOwners
    from steelyard.runtime.clock import SystemClock
    from steelyard.runtime.redis import RedisPorts
    from steelyard.runtime.redis.from_settings import open_redis_of

    settings = await with_running_redis(settings)
    clock = SystemClock()
    ports = RedisPorts(bus, KnownOwners(database, clock), clock)
    async with open_redis_of(settings, database, ports) as link:
        yield link


async def with_running_redis(settings: "Settings") -> "Settings":
    """Return the settings with the Valkey of the `up` that runs here, where they name no Redis."""
    from pydantic import SecretStr

    from steelyard.runtime.valkey import find_running_valkey

    if settings.redis_address is not None:
        return settings
    url = await find_running_valkey(settings.data_dir)
    return settings.model_copy(update={"redis_url": SecretStr(url) if url else None})


async def check_schema(url: str) -> None:
    """Refuse a database whose schema is not this release's.

    Raises:
        SchemaBehind: It is at another revision, or was never migrated.
        CommandFailed: It cannot be reached, or does not let us in.
    """
    needed = newest_revision()
    with explained_as("the database in STEELYARD_DATABASE_URL"):
        found = await find_revision(url)
    if found != needed:
        raise SchemaBehind(found=found, needed=needed)


@contextmanager
def explained_as(name: str) -> Iterator[None]:
    """Turn what the driver says of an address that does not work into one sentence.

    Raises:
        CommandFailed: What happened inside, told of `name`.
    """
    from asyncpg import InterfaceError, PostgresError

    try:
        yield
    except (OSError, TimeoutError, PostgresError, InterfaceError, ValueError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise CommandFailed(f"{name} cannot be used: {said}; nothing was changed") from error
