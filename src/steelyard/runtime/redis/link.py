"""The whole link to Redis: opened once in a process, told the same things as the parts that live in it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from steelyard.core.clock import Clock
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.redis.cache import RedisCache
from steelyard.runtime.redis.connect import RedisServer
from steelyard.runtime.redis.counts import RedisCounts
from steelyard.runtime.redis.hearing import RedisHearing
from steelyard.runtime.redis.hints import Hints
from steelyard.runtime.redis.owners import AccountOwners
from steelyard.runtime.redis.records import Records
from steelyard.runtime.redis.writer import RedisWriter
from steelyard.runtime.repeat import repeat

DRAIN_S = 1.0
RESTART_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class RedisLink:
    """What a process has of Redis."""

    cache: RedisCache
    writer: RedisWriter
    hearing: RedisHearing
    counts: RedisCounts


@dataclass(frozen=True, slots=True)
class RedisPorts:
    """What the link works with."""

    bus: InProcessBus
    owners: AccountOwners
    clock: Clock


@asynccontextmanager
async def open_redis(url: str, ports: RedisPorts, *, key: bytes) -> AsyncIterator[RedisLink]:
    """Publish what this process commits, and put what others commit on its bus, while inside.

    Never waits for the server: without one everything works as before it came. On leaving, what waits is told for a second at most.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        ports: The process's own bus, the owners of accounts and the time.
        key: The installation's signing key.
    """
    server, counts = RedisServer(url), RedisCounts()
    hints, records = Hints(key, secrets.token_hex(8)), Records(key)
    clock, owners = ports.clock, ports.owners
    writer = RedisWriter(server, owners, hints, records, clock, counts)
    cache = RedisCache(server, owners, records, writer, clock, counts)
    hearing = RedisHearing(server, ports.bus, owners, hints, clock, counts)
    stop_publishing = ports.bus.subscribe_own(writer.publish)
    tasks = [
        asyncio.create_task(
            repeat("redis writer", writer.run, every_s=RESTART_PAUSE_S), name="redis writer"
        ),
        asyncio.create_task(
            repeat("redis hearing", hearing.run, every_s=RESTART_PAUSE_S), name="redis hearing"
        ),
    ]
    try:
        yield RedisLink(cache, writer, hearing, counts)
    finally:
        await writer.drain(deadline_s=DRAIN_S)
        stop_publishing()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await cache.close()
