"""Opening accounts: what is missing is named, and nothing of the database is told."""

import pytest

from steelyard.balances.model import NewAccount
from steelyard.balances.store import open_accounts
from steelyard.core.errors import NotFound
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.runtime.currencies import find_currency
from tests.world import World


@pytest.mark.parametrize("user", ["nobody", "a (b), c", "=("])
async def test_account_of_an_unknown_user_names_the_user_and_opens_nothing(
    world: World, user: str
) -> None:
    wanted = NewAccount(UserId(user), find_currency("GBP"))
    with pytest.raises(NotFound) as refused:
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            await open_accounts(uow, [wanted], now=world.clock.now())
    assert str(refused.value) == f"there is no user {user!r} here"
    assert await held_accounts(world) == 0


async def test_account_in_a_currency_without_a_book_names_the_currency_and_opens_nothing(
    world: World,
) -> None:
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        await uow.execute(
            "INSERT INTO steelyard.app_user (tenant_id, id, created_at) VALUES ($1, 'alice', $2)",
            DEFAULT_TENANT,
            world.clock.now(),
        )
    wanted = NewAccount(UserId("alice"), find_currency("JPY"))
    with pytest.raises(NotFound) as refused:
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            await open_accounts(uow, [wanted], now=world.clock.now())
    assert str(refused.value) == "there is no book 'JPY' here"
    assert await held_accounts(world) == 0


async def held_accounts(world: World) -> int:
    """How many users' accounts there are."""
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        return int(await uow.fetchval("SELECT count(*) FROM steelyard.account WHERE kind = 'held'"))
