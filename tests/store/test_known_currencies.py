"""Currencies are asked for once and then known, of every account nearby."""

import pytest

from steelyard.balances.known_currencies import KnownCurrencies
from steelyard.balances.read import BalanceReader
from steelyard.core.errors import DatabaseUnavailable, NotFound
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId
from steelyard.runtime.database import Database
from tests.world import World

OTHER = TenantId("other")


async def test_one_question_teaches_the_currencies_of_all_accounts_nearby(world: World) -> None:
    await world.make_tenant(OTHER, "GBP", "JPY")
    yen = await world.open_account(tenant=OTHER, currency="JPY")
    pounds = await world.open_account(tenant=OTHER)
    database = await Database.open(world.fresh.app_url)
    known = KnownCurrencies(BalanceReader(database, world.cache, world.clock))
    assert await known.get(OTHER, yen) == "JPY"
    await database.close()
    assert await known.get(OTHER, pounds) == "GBP"
    with pytest.raises(DatabaseUnavailable):
        await known.get(OTHER, AccountId(pounds + 1_000_000))


async def test_an_account_opened_after_the_question_is_asked_for_by_itself(world: World) -> None:
    first = await world.open_account()
    known = KnownCurrencies(world.reader)
    assert await known.get(DEFAULT_TENANT, first) == "GBP"
    later = await world.open_account()
    assert await known.get(DEFAULT_TENANT, later) == "GBP"


async def test_another_tenants_account_has_no_currency(world: World) -> None:
    await world.make_tenant(OTHER, "JPY")
    theirs = await world.open_account(tenant=OTHER, currency="JPY")
    ours = await world.open_account()
    known = KnownCurrencies(world.reader)
    assert await known.get(OTHER, theirs) == "JPY"
    for _ in range(2):
        with pytest.raises(NotFound):
            await known.get(DEFAULT_TENANT, theirs)
        with pytest.raises(NotFound):
            await known.get(OTHER, ours)
