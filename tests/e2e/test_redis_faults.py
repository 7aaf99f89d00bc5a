"""Two servers behind one Valkey that is killed, paused, flushed and cut off: no charge notices, and nothing shown becomes older."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.exceptions import RedisError

from steelyard.runtime.database import Connection
from tests.e2e.scene import Owned, Scene
from tests.e2e.server_kit import Server, start_server
from tests.redis_kit import Valkey, running_valkey
from tests.world import FreshDatabase


@pytest_asyncio.fixture
async def own_valkey() -> AsyncIterator[Valkey]:
    """A server that a test may break."""
    async with running_valkey() as started:
        yield started


@pytest_asyncio.fixture
async def pair(
    shared_database: FreshDatabase, own_valkey: Valkey, tmp_path: Path
) -> AsyncIterator[tuple[Server, Server]]:
    """Two servers behind one Valkey."""
    settings = {"STEELYARD_REDIS_URL": own_valkey.url}
    started = [
        await start_server(shared_database.app_url, tmp_path, settings=settings) for _ in range(2)
    ]
    yield started[0], started[1]
    for server in started:
        await server.stop()


async def cached(server: Server, owned: Owned) -> dict[str, Any]:
    """What `GET /transactions/balance/cached` answers the user."""
    path = "/transactions/balance/cached"
    answer = await server.call("GET", path, headers=owned.as_user)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def until_cached(server: Server, owned: Owned, balance: float) -> None:
    """Wait until the cache answers this balance; a miss meanwhile is the database's answer."""
    async with asyncio.timeout(15):
        while (found := await cached(server, owned)) != {"balance": balance, "cached": True}:
            assert found["cached"] is False or found["balance"] != balance
            await asyncio.sleep(0.02)


async def test_what_one_server_commits_the_other_answers_from_the_cache(
    pair: tuple[Server, Server], own_valkey: Valkey, superuser: Connection
) -> None:
    one, two = pair
    scene = Scene(one, superuser)
    owned = await scene.own(10_000)
    await scene.post(owned, "charges", {"amount": 2_550})
    await until_cached(two, owned, 74.5)
    assert await own_valkey.ask("GET", f"balance:user:{owned.user}") == b"74.5"
    for hurt, command in (
        ("a list", ("LPUSH", f"balance:user:{owned.user}", "x")),
        ("a word", ("SET", f"balance:user:{owned.user}", "x")),
        ("a forged number", ("SET", f"balance:user:{owned.user}", "1000000")),
        ("nothing", ("FLUSHALL",)),
    ):
        if hurt == "a list":
            await own_valkey.ask("DEL", f"balance:user:{owned.user}")
        await own_valkey.ask(*command)
        assert await cached(two, owned) == {"balance": 74.5, "cached": False}, hurt
        await until_cached(two, owned, 74.5)


async def test_what_was_committed_and_never_told_is_told_at_the_next_start(
    shared_database: FreshDatabase, own_valkey: Valkey, superuser: Connection, tmp_path: Path
) -> None:
    settings = {"STEELYARD_REDIS_URL": own_valkey.url}
    one = await start_server(shared_database.app_url, tmp_path, settings=settings)
    owned = await Scene(one, superuser).own(10_000)
    await until_cached(one, owned, 100)
    one.process.kill()
    await one.stop()
    # As if it had been killed between the commit and the cache: a process that knows no Valkey commits.
    silent = await start_server(shared_database.app_url, tmp_path)
    await Scene(silent, superuser).post(owned, "charges", {"amount": 1_000})
    await silent.stop()
    assert await own_valkey.ask("GET", f"balance:user:{owned.user}") == b"100"
    other = await start_server(shared_database.app_url, tmp_path, settings=settings)
    try:
        await until_cached(other, owned, 90)
        assert await own_valkey.ask("GET", f"balance:user:{owned.user}") == b"90"
    finally:
        await other.stop()


async def test_a_server_starts_while_valkey_is_away_and_uses_it_when_it_comes(
    shared_database: FreshDatabase, own_valkey: Valkey, superuser: Connection, tmp_path: Path
) -> None:
    own_valkey.kill()
    settings = {"STEELYARD_REDIS_URL": own_valkey.url}
    server = await start_server(shared_database.app_url, tmp_path, settings=settings)
    try:
        owned = await Scene(server, superuser).own(10_000)
        assert await cached(server, owned) == {"balance": 100, "cached": False}
        figures = (await server.call("GET", "/metrics", headers={})).text
        assert "steelyard_bus_subscribed 0.0" in figures
        assert sum('"redis.away"' in line for line in server.log_lines()) == 1
        await own_valkey.restart()
        await until_cached(server, owned, 100)
        async with asyncio.timeout(10):
            while True:
                figures = (await server.call("GET", "/metrics", headers={})).text
                if "steelyard_bus_subscribed 1.0" in figures:
                    break
                await asyncio.sleep(0.05)
        assert sum('"redis.back"' in line for line in server.log_lines()) == 1
    finally:
        await server.stop()


async def charge_on(
    scene: Scene, owned: Owned, ended: asyncio.Event, slowest_s: list[float]
) -> int:
    """Charge one after the other until the end; every one must take effect."""
    charges = 0
    while not ended.is_set():
        began_s = time.monotonic()
        await scene.post(owned, "charges", {"amount": 1})
        slowest_s.append(time.monotonic() - began_s)
        charges += 1
        await asyncio.sleep(0.005)
    return charges


async def watch_key(valkey: Valkey, owned: Owned, ended: asyncio.Event) -> list[int]:
    """What a stranger who reads the key over and over is shown, as seqs."""
    seen: list[int] = []
    while not ended.is_set():
        try:
            async with asyncio.timeout(0.3):
                record = await valkey.ask("GET", f"balance:seq:{owned.user}")
        except (OSError, TimeoutError, RedisError):
            record = None
        if record:
            seen.append(int(record.split(b":")[1]))
        await asyncio.sleep(0.005)
    return seen


@pytest.mark.timeout(180)
async def test_charges_go_on_whatever_happens_to_valkey(
    pair: tuple[Server, Server], own_valkey: Valkey, superuser: Connection
) -> None:
    one, two = pair
    owned = await Scene(one, superuser).own(1_000_000)
    ended, slowest_s = asyncio.Event(), [0.0]
    charging = [
        asyncio.create_task(charge_on(Scene(server, superuser), owned, ended, slowest_s))
        for server in (one, one, two, two)
    ]
    watching = asyncio.create_task(watch_key(own_valkey, owned, ended))
    await asyncio.sleep(0.5)
    own_valkey.kill()
    await asyncio.sleep(1)
    await own_valkey.restart()
    await asyncio.sleep(1)
    own_valkey.pause()
    await asyncio.sleep(1.5)
    own_valkey.resume()
    await asyncio.sleep(1)
    await own_valkey.ask("FLUSHALL")
    await own_valkey.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await own_valkey.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.sleep(1)
    ended.set()
    charges = sum(await asyncio.gather(*charging))
    seen = await watching
    assert max(slowest_s) < 2  # of which it is never Valkey that was waited for
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
    expected = (1_000_000 - charges) / 100
    for server in (one, two):
        await until_cached(server, owned, expected)
    figures = (await one.call("GET", "/metrics", headers={})).text
    assert "steelyard_bus_subscribed 1.0" in figures
    assert "steelyard_bus_unsigned_total 0.0" in figures
    events = [line for server in pair for line in server.log_lines() if '"redis.away"' in line]
    assert 1 <= len(events) <= 20
