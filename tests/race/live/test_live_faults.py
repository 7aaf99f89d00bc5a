"""Whatever happens to the bus, every screen is told every change of its own account, once, in order, and ends true."""

import asyncio
import contextlib
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from steelyard.access.model import Role
from steelyard.app import Services, open_services
from steelyard.core.ids import DEFAULT_TENANT, AccountId
from steelyard.ledger.model import Kind, Order
from steelyard.ledger.post_in import post_in
from steelyard.runtime.database import Connection, connect
from steelyard.runtime.settings import Settings
from tests.e2e.server_kit import SECRET, Server, start_server, token
from tests.race.live.bus_proxy import BusProxy
from tests.race.live.screens import Screen
from tests.race.live.valkey_process import ValkeyProcess
from tests.world import FreshDatabase, World

QUIET_S = 2.0
MONEY = 10_000_000
SHOWN_FAULTS = 10


@dataclass(frozen=True, slots=True)
class Size:
    """How much happens."""

    screens: int
    faults: int
    charges_per_s: float
    late_writers: int
    seed: int = field(default_factory=lambda: secrets.randbits(32))


@dataclass(slots=True)
class Rig:
    """Two servers with screens, a third process that commits, and a bus that can be spoiled."""

    services: Services
    servers: list[Server]
    valkey: ValkeyProcess
    proxy: BusProxy
    screens: list[Screen]
    accounts: list[AccountId]
    chance: random.Random
    late: Connection
    is_over: bool = False
    charged: int = 0
    late_commits: int = 0


@asynccontextmanager
async def open_rig(
    world: World, fresh: FreshDatabase, folder: Path, size: Size
) -> AsyncIterator[Rig]:
    """Start everything; half of the screens watch on each server, two watch each account."""
    chance = random.Random(size.seed)
    accounts = [
        await world.open_account(MONEY, user=f"watcher-{number}")
        for number in range(max(1, size.screens // 2))
    ]
    async with contextlib.AsyncExitStack() as closing:
        valkey = await ValkeyProcess.start(folder / "valkey")
        closing.push_async_callback(valkey.stop)
        proxy = BusProxy(str(valkey.socket), chance)
        await proxy.start()
        closing.push_async_callback(proxy.stop)
        settings = {
            "STEELYARD_REDIS_URL": proxy.url,
            "STEELYARD_LIVE_CONNECTIONS_PER_USER": "50",
        }
        servers = []
        for _ in range(2):
            servers.append(await start_server(fresh.app_url, folder, settings=settings))
            closing.push_async_callback(servers[-1].stop)
        services = await closing.enter_async_context(
            open_services(
                Settings(redis_url=SecretStr(proxy.url)),
                database_url=fresh.app_url,
                made_secret=SECRET,
            )
        )
        late = await connect(fresh.app_url)
        closing.push_async_callback(late.close)
        screens = [
            Screen(
                servers[number % 2].port,
                str(account),
                token(f"watcher-{accounts.index(account)}", Role.USER, lifetime=timedelta(hours=1)),
                1,
            )
            for number, account in enumerate(accounts * 2)
        ]
        yield Rig(services, servers, valkey, proxy, screens, accounts, chance, late)


async def charge_on(rig: Rig, per_s: float) -> None:
    """Charge accounts at random through the ledger until it is over."""
    ledger = rig.services.ledger(DEFAULT_TENANT)

    async def charge() -> None:
        await ledger.charge(rig.chance.choice(rig.accounts), 1)
        rig.charged += 1

    async with asyncio.TaskGroup() as group:
        while not rig.is_over:
            group.create_task(charge())
            await asyncio.sleep(rig.chance.expovariate(per_s))


async def commit_late(rig: Rig) -> None:
    """Charge inside a transaction that stays open for a while: its changes become visible late."""
    while not rig.is_over:
        account = rig.chance.choice(rig.accounts)
        order = Order(DEFAULT_TENANT, Kind.CHARGE, account, 1, f"late-{secrets.token_hex(8)}")
        async with rig.late.transaction():
            await post_in(rig.late, order, now=rig.services.clock.now())
            await asyncio.sleep(rig.chance.random() * 0.4)
        rig.late_commits += 1


async def lose_some(rig: Rig) -> None:
    """Lose a tenth of what is published, for a while."""
    rig.proxy.loss = 0.1
    await asyncio.sleep(rig.chance.random())
    rig.proxy.heal()


async def swap_some(rig: Rig) -> None:
    """Deliver what is published late, in another order, and some of it twice."""
    rig.proxy.delay_s, rig.proxy.repeats = 0.05, 0.05
    await asyncio.sleep(rig.chance.random())
    rig.proxy.heal()


async def kill_bus(rig: Rig) -> None:
    """kill -9 Valkey, and start it again a little later."""
    rig.valkey.kill()
    await asyncio.sleep(rig.chance.random() * 0.5)
    await rig.valkey.restart()


async def pause_bus(rig: Rig) -> None:
    """Stop Valkey in its tracks for a while."""
    rig.valkey.send(signal.SIGSTOP)
    await asyncio.sleep(rig.chance.random() * 1.5)
    rig.valkey.send(signal.SIGCONT)


async def flush_bus(rig: Rig) -> None:
    """Forget everything that is cached."""
    await rig.valkey.command("FLUSHALL")


async def kill_subscribers(rig: Rig) -> None:
    """End the subscriptions from Valkey's side."""
    await rig.valkey.command("CLIENT", "KILL", "TYPE", "PUBSUB")


async def cut_bus(rig: Rig) -> None:
    """Drop every connection to Valkey."""
    rig.proxy.cut()


async def drop_screens(rig: Rig) -> None:
    """Drop a tenth of the screens, which come back by themselves."""
    for screen in rig.chance.sample(rig.screens, max(1, len(rig.screens) // 10)):
        screen.drop()


FAULTS: tuple[Callable[[Rig], Awaitable[None]], ...] = (
    lose_some,
    swap_some,
    kill_bus,
    pause_bus,
    flush_bus,
    kill_subscribers,
    cut_bus,
    drop_screens,
    drop_screens,
)


async def run_with_faults(rig: Rig, size: Size) -> None:
    """Let money move while faults come one after the other, every kind of them."""
    order = [FAULTS[number % len(FAULTS)] for number in range(size.faults)]
    rig.chance.shuffle(order)
    watching = [asyncio.create_task(screen.run()) for screen in rig.screens]
    await _all_connected(rig)
    acting = [
        asyncio.create_task(charge_on(rig, size.charges_per_s)),
        *(asyncio.create_task(commit_late(rig)) for _ in range(min(1, size.late_writers))),
    ]
    try:
        for fault in order:
            await fault(rig)
            await asyncio.sleep(rig.chance.random() * 0.2)
            for task in acting:
                if task.done():
                    task.result()
        rig.is_over = True
        await asyncio.gather(*acting)
        await asyncio.sleep(QUIET_S)
    finally:
        rig.is_over = True
        for screen in rig.screens:
            await screen.end()
        await asyncio.gather(*acting, *watching, return_exceptions=True)


async def _all_connected(rig: Rig) -> None:
    async with asyncio.timeout(60):
        while any(screen.balance is None for screen in rig.screens):  # noqa: ASYNC110  (500 of them)
            await asyncio.sleep(0.05)


async def check_screens(rig: Rig) -> None:
    """Compare all that each screen was told with what the database holds."""
    faults = [f"{screen.account}: {fault}" for screen in rig.screens for fault in screen.faults]
    for screen in rig.screens:
        balance = await rig.services.reader.read(DEFAULT_TENANT, AccountId(int(screen.account)))
        told = screen.completed
        if told != list(range(2, balance.seq + 1)):
            faults.append(f"{screen.account}: told up to {screen.position} of {balance.seq}")
        if screen.balance != balance.available / 100:
            faults.append(f"{screen.account}: shows {screen.balance}, holds {balance.available}")
    assert not faults, f"{len(faults)} faults: {faults[:SHOWN_FAULTS]}"
    assert not any(screen.snapshots for screen in rig.screens)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(Size(40, 18, 150.0, 1), id="small"),
        pytest.param(
            Size(500, 200, 200.0, 1),
            id="full",
            marks=[pytest.mark.slow, pytest.mark.timeout(900)],
        ),
    ],
)
async def test_no_fault_of_the_bus_loses_swaps_or_misleads(
    world: World, fresh: FreshDatabase, tmp_path: Path, size: Size
) -> None:
    """Killed, paused, flushed, deaf, lossy and disordered: the journal decides what a screen is told."""
    began_s = time.monotonic()
    async with open_rig(world, fresh, tmp_path, size) as rig:
        await run_with_faults(rig, size)
        await check_screens(rig)
        told = (
            f"seed {size.seed}: {rig.charged} charges and {rig.late_commits} late ones told to {len(rig.screens)} screens over "
            f"{sum(screen.connections for screen in rig.screens)} connections; {size.faults} faults, {rig.proxy.lost} "
            f"messages lost and {rig.proxy.swapped} delayed, in {time.monotonic() - began_s:.0f} s"
        )
    print(told)  # noqa: T201  (shown by pytest -rP)
    assert rig.charged > size.faults
    assert rig.late_commits
