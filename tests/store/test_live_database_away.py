"""While the database is away sessions stay and are told the rest when it is back; nobody new is let in unchecked."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from steelyard.balances.read import BalanceReader
from steelyard.live.gateway import Gateway, LivePorts
from steelyard.live.transport import Ending, Refused
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.database import Database
from tests.e2e.database_proxy import DatabaseProxy
from tests.live_kit import QUICK, Stage, authenticator_of, charge_many
from tests.world import World


@pytest_asyncio.fixture
async def proxy(world: World) -> AsyncIterator[DatabaseProxy]:
    """Stands between the gateway and the database; the ledger has its own way."""
    made = DatabaseProxy(world.fresh.app_url)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def stage(world: World, proxy: DatabaseProxy) -> AsyncIterator[Stage]:
    """A deaf gateway that reaches the database by the proxy alone."""
    database = await Database.open(await proxy.open())
    reader = BalanceReader(database, InProcessCache(world.clock), world.clock)
    authenticator = authenticator_of(database, world.clock)
    ports = LivePorts(database, reader, authenticator, InProcessBus(), world.clock)
    gateway = Gateway(ports, QUICK)
    gateway.run()
    yield Stage(world, gateway, world.clock)
    await gateway.close()
    await database.close()


@pytest.mark.parametrize("way", ["refused", "silent"])
async def test_sessions_outlive_the_database_and_miss_nothing(
    world: World, proxy: DatabaseProxy, stage: Stage, way: str
) -> None:
    account = await world.open_account(10_000, user="ann")
    client = await stage.connect("ann")
    if way == "refused":
        proxy.go_away()
    else:
        proxy.is_silent = True
    await charge_many(world, account, 30)
    joining = await stage.open(stage.token("ann"))  # its standing was read a moment ago
    assert joining.session is not None
    joining.session.start()
    await asyncio.sleep(0.5)
    assert (client.ending, client.completed) == (None, [])
    assert (joining.ending, joining.heard) == (None, [])
    answer = await client.say("get_current_balance")
    assert answer["code"] == "database_unavailable"
    proxy.come_back()
    await client.until_at(31)
    await joining.until_at(31)
    assert client.completed == list(range(2, 32))


async def test_nobody_new_is_let_in_unchecked(proxy: DatabaseProxy, stage: Stage) -> None:
    proxy.go_away()
    with pytest.raises(Refused) as refused:
        await stage.open(stage.token("stranger"))
    assert refused.value.ending is Ending.FAILED
