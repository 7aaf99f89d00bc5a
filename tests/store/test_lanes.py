"""Which requests share a batch."""

import asyncio

from tests.world import World


async def test_requests_on_one_account_go_in_one_batch(world: World) -> None:
    account = await world.open_account(1000)
    counts, ledger = world.commit.counts, world.ledger()
    before = counts.batches
    await asyncio.gather(*(ledger.charge(account, 1) for _ in range(100)))
    assert (counts.batches - before, counts.largest_batch) == (1, 100)
    assert (await world.balance(account)).posted == 900


async def test_requests_on_many_accounts_go_in_two_batches_at_once(world: World) -> None:
    accounts = [await world.open_account(10) for _ in range(80)]
    counts, ledger = world.commit.counts, world.ledger()
    before = counts.batches
    await asyncio.gather(*(ledger.charge(account, 1) for account in accounts))
    assert (counts.batches - before, counts.largest_batch) == (2, 40)


async def test_second_batch_does_not_begin_with_an_account_of_the_first(world: World) -> None:
    account, other = await world.open_account(1000), await world.open_account(1000)
    counts, ledger = world.commit.counts, world.ledger()
    before = counts.batches
    first = [asyncio.ensure_future(ledger.charge(account, 1)) for _ in range(40)]
    for _ in range(3):
        await asyncio.sleep(0)  # the first batch is under way then
    then = [
        asyncio.ensure_future(ledger.charge(place, 1)) for place in [account] * 40 + [other] * 40
    ]
    await asyncio.gather(*first, *then)
    # Had they not waited, all 80 would have gone beside the first and stood before its lock.
    assert (counts.batches - before, counts.largest_batch) == (3, 40)
    assert [(await world.balance(place)).posted for place in (account, other)] == [920, 960]
