"""The demo's users at the core bank: made once, asked for only while their own bank is there."""

from steelyard.cli.demo_people import PEOPLE, WALLET, enrol_people, rest_people
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.mirror.store import list_users
from steelyard.runtime.settings import Settings
from steelyard.sync.open_sync import CORE_BANK
from tests.world import World

ACCOUNTS = [one.number for person in PEOPLE for one in person.accounts]


async def listed(world: World) -> dict[str, list[str]]:
    """Who is asked for, and the currencies of the accounts."""
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        found = await list_users(uow, CORE_BANK, after=None, only=None, limit=100)
    return {user.user: [one.currency.code for one in user.accounts] for user in found}


async def test_eight_users_in_two_currencies_are_mirrored_and_a_wallet_user_is_not(
    world: World,
) -> None:
    now, settings = world.clock.now(), Settings()
    assert await enrol_people(world.database, settings, now=now) == {}
    expected = {one.user: [each.currency for each in one.accounts] for one in PEOPLE}
    assert await listed(world) == expected
    assert (len(expected), {code for each in expected.values() for code in each}) == (
        8,
        {"ZMW", "USD"},
    )
    assert await enrol_people(world.database, settings, now=now) == {}
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert await uow.fetchval("SELECT count(*) FROM steelyard.mirrored_account") == len(
            ACCOUNTS
        )
        wallet = await uow.fetchval(
            "SELECT context FROM steelyard.app_user WHERE id = $1", WALLET.user
        )
        due = await uow.fetchval("SELECT max(due_at) FROM steelyard.sync_target")
    assert wallet == "WALLET"
    assert (due - now).total_seconds() <= 10


async def test_no_other_bank_is_ever_asked_for_them(world: World) -> None:
    now, settings = world.clock.now(), Settings()
    await rest_people(world.database, now=now)
    assert await listed(world) == {}
    await enrol_people(world.database, settings, now=now)
    for _ in range(2):
        await rest_people(world.database, now=now)
        assert await listed(world) == {}
    await enrol_people(world.database, settings, now=now)
    assert set(await listed(world)) == {one.user for one in PEOPLE}
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert await uow.fetchval("SELECT count(*) FROM steelyard.mirrored_account") == len(
            ACCOUNTS
        )
