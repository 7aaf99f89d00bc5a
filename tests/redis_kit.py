"""A real Valkey for tests, several processes' links to it, and ways to hurt it."""

import asyncio
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.redis import AccountOwners, Owner, Place, RedisLink, RedisPorts, open_redis
from steelyard.runtime.redis.connect import RedisServer, ask_all
from steelyard.runtime.valkey import ValkeyServer, find_program, start_valkey

KEY = b"a key that only tests sign with!"


@dataclass
class Valkey:
    """A running server, and what may happen to it."""

    server: ValkeyServer

    @property
    def url(self) -> str:
        """Its address."""
        return self.server.place.url

    async def ask(self, *command: str | int) -> Any:
        """Ask one thing, as `redis-cli` would."""
        connection = await RedisServer(self.url).connect("test")
        try:
            [answer] = await ask_all(connection, [command], deadline_s=5)
        finally:
            await connection.disconnect(nowait=True)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        """End it as a power cut would."""
        self.server.process.kill()
        self.server.process.wait()

    async def restart(self) -> None:
        """Start it again, empty."""
        await self.server.restart()

    def pause(self) -> None:
        """Let it hang: connections stay, nothing is answered."""
        os.kill(self.server.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.server.process.pid, signal.SIGCONT)


@asynccontextmanager
async def running_valkey() -> AsyncIterator[Valkey]:
    """Start a server in a folder of its own, and end it."""
    place = Path(tempfile.mkdtemp(prefix="syv"))
    server = await start_valkey(place, find_program())
    try:
        yield Valkey(server)
    finally:
        os.kill(server.process.pid, signal.SIGCONT) if server.is_running else None
        await server.stop()
        rmtree(place, ignore_errors=True)


@dataclass
class Users:
    """Account n is user-n's; it stands for the user unless it is among `others`."""

    users: dict[AccountId, UserId] = field(default_factory=dict)
    others: set[AccountId] = field(default_factory=set)

    def note(self, tenant: TenantId, account: AccountId, user: UserId) -> None:
        """Know it already."""

    async def find(self, places: Collection[Place]) -> dict[Place, Owner]:
        """Return the owners; account 0 is a book's."""
        return {
            place: Owner(
                self.users.get(place[1], UserId(f"user-{place[1]}")), place[1] not in self.others
            )
            for place in places
            if place[1] != 0
        }


@dataclass
class Process:
    """What one process has: its bus and its link."""

    bus: InProcessBus
    link: RedisLink


@asynccontextmanager
async def processes(
    url: str,
    count: int,
    *,
    owners: AccountOwners | None = None,
    key: bytes = KEY,
    read_deadline_s: float = 10,
) -> AsyncIterator[list[Process]]:
    """Open the links of several processes and wait until each is subscribed."""
    users = owners or Users()
    async with AsyncExitStack() as closing:
        made = []
        for _ in range(count):
            bus = InProcessBus()
            ports = RedisPorts(bus, users, SystemClock())
            link = await closing.enter_async_context(open_redis(url, ports, key=key))
            link.cache.read_deadline_s = read_deadline_s  # a busy machine is no miss
            made.append(Process(bus, link))
        for one in made:
            await until(lambda one=one: one.link.counts.is_subscribed)  # type: ignore[misc]
        yield made


async def until(is_so: Callable[[], bool], *, deadline_s: float = 10) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(deadline_s):
        while not is_so():  # noqa: ASYNC110 - figures of the product tell nobody
            await asyncio.sleep(0.005)


async def told(*made: Process) -> None:
    """Wait until nothing waits to be told."""
    for one in made:
        await until(lambda one=one: one.link.writer.is_told_since(float("inf")))  # type: ignore[misc]


def new_key() -> bytes:
    """Return another installation's key."""
    return secrets.token_bytes(32)
