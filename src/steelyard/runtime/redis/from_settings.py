"""The link to Redis that the settings ask for, and the relay that goes with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from steelyard.runtime.database import Database
from steelyard.runtime.installation import read_signing_key
from steelyard.runtime.redis.link import RedisLink, RedisPorts, open_redis
from steelyard.runtime.relay import Relay
from steelyard.runtime.settings import Settings

POSITION_EVERY_S = 1.0


@asynccontextmanager
async def open_redis_of(
    settings: Settings, database: Database, ports: RedisPorts
) -> AsyncIterator[RedisLink | None]:
    """Open the link to the Redis of the settings; None where they name none.

    Raises:
        DatabaseUnavailable: The installation's key could not be read.
    """
    address = settings.redis_address
    if address is None:
        yield None
        return
    key = await read_signing_key(database)
    async with open_redis(address.get_secret_value(), ports, key=key) as link:
        yield link


def relay_beside(redis: RedisLink | None, relay: Relay) -> Relay:
    """Where processes tell each other, let the relay wait for that, and begin where all had been told."""
    if redis is not None:
        relay.name, relay.waits_a_turn = "redis", True
        relay.record_every_s, relay.is_told_since = POSITION_EVERY_S, redis.writer.is_told_since
    return relay
