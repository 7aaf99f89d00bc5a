"""What every balance cache promises: run each check of `CACHE_CONTRACT` on a cache of yours.

for check in CACHE_CONTRACT:
    await check(await make_caches())
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId
from steelyard.runtime.cache import BalanceCache, CachedBalance

OTHER_TENANT = TenantId("other")


async def _nothing_waits() -> None:
    """Everything is stored at once."""


@dataclass(frozen=True, slots=True)
class CachesUnderTest:
    """An empty cache as two processes see it; the same object twice where it is one process's."""

    first: BalanceCache
    second: BalanceCache
    settled: Callable[[], Awaitable[None]] = field(default=_nothing_waits)
    """Waits until everything written has been stored or refused."""


CacheCheck = Callable[[CachesUnderTest], Awaitable[None]]


async def check_what_is_stored_is_found_by_both(caches: CachesUnderTest) -> None:
    """Numbers come back exactly: zero, below zero, without minor units, at the largest amount."""
    balances = {
        AccountId(1): CachedBalance(15_050, 2, 7),
        AccountId(2): CachedBalance(0, 2, 1),
        AccountId(3): CachedBalance(-5, 0, 2**40),
        AccountId(4): CachedBalance(2**53 - 1, 4, 3),
    }
    for account, balance in balances.items():
        assert caches.first.set_if_newer(DEFAULT_TENANT, account, balance)
    await caches.settled()
    for account, balance in balances.items():
        assert await caches.second.get(DEFAULT_TENANT, account) == balance
    asked = [*balances, AccountId(99)]
    assert await caches.second.get_many(DEFAULT_TENANT, asked) == balances
    assert await caches.first.get(DEFAULT_TENANT, AccountId(99)) is None


async def check_the_newest_wins_in_any_order(caches: CachesUnderTest) -> None:
    """However the writes of two processes interleave, each account ends with its largest seq."""
    chance = Random(11)  # noqa: S311 - the same disorder each time
    accounts = [AccountId(number) for number in range(1, 9)]
    writes = [(account, seq) for account in accounts for seq in range(1, 41)]
    chance.shuffle(writes)
    for number, (account, seq) in enumerate(writes):
        cache = chance.choice((caches.first, caches.second))
        cache.set_if_newer(DEFAULT_TENANT, account, CachedBalance(seq * 100, 2, seq))
        if number % 20 == 0:
            await caches.settled()
    await caches.settled()
    for account in accounts:
        found = await caches.second.get(DEFAULT_TENANT, account)
        assert found == CachedBalance(4_000, 2, 40)


async def check_nothing_shown_becomes_older(caches: CachesUnderTest) -> None:
    """While two processes write, whoever reads never sees a seq smaller than one seen before."""
    chance = Random(12)  # noqa: S311 - the same disorder each time
    account, seen = AccountId(5), 0
    for newest in range(1, 31):
        for cache in (caches.first, caches.second):
            seq = max(1, newest - chance.randrange(5))
            cache.set_if_newer(DEFAULT_TENANT, account, CachedBalance(seq, 2, seq))
        await caches.settled()
        found = await caches.first.get(DEFAULT_TENANT, account)
        assert found is not None
        assert found.seq >= seen
        seen = found.seq


async def check_the_same_seq_is_stored_once(caches: CachesUnderTest) -> None:
    """A repeated write changes nothing."""
    first, second = CachedBalance(100, 2, 4), CachedBalance(999, 2, 4)
    caches.first.set_if_newer(DEFAULT_TENANT, AccountId(1), first)
    await caches.settled()
    caches.second.set_if_newer(DEFAULT_TENANT, AccountId(1), second)
    await caches.settled()
    assert await caches.first.get(DEFAULT_TENANT, AccountId(1)) == first


async def check_tenants_are_apart(caches: CachesUnderTest) -> None:
    """The same account number of two tenants is two accounts."""
    mine, theirs = CachedBalance(1, 2, 9), CachedBalance(2, 2, 3)
    caches.first.set_if_newer(DEFAULT_TENANT, AccountId(1), mine)
    caches.first.set_if_newer(OTHER_TENANT, AccountId(1), theirs)
    await caches.settled()
    assert await caches.second.get(DEFAULT_TENANT, AccountId(1)) == mine
    assert await caches.second.get(OTHER_TENANT, AccountId(1)) == theirs
    await caches.second.forget(OTHER_TENANT, [AccountId(1)])
    assert await caches.first.get(DEFAULT_TENANT, AccountId(1)) == mine
    assert await caches.first.get(OTHER_TENANT, AccountId(1)) is None


async def check_what_is_forgotten_is_gone_when_forget_returns(caches: CachesUnderTest) -> None:
    """No waiting write of the process that forgets brings it back, and nobody finds it."""
    accounts = [AccountId(number) for number in range(1, 4)]
    for account in accounts:
        caches.first.set_if_newer(DEFAULT_TENANT, account, CachedBalance(100, 2, 5))
    await caches.first.forget(DEFAULT_TENANT, accounts[:2])
    assert await caches.second.get_many(DEFAULT_TENANT, accounts[:2]) == {}
    await caches.settled()
    assert await caches.second.get_many(DEFAULT_TENANT, accounts[:2]) == {}
    assert await caches.second.get(DEFAULT_TENANT, accounts[2]) is not None


async def check_many_readers_are_all_answered(caches: CachesUnderTest) -> None:
    """A thousand reads at once are no reason to miss."""
    balance = CachedBalance(100, 2, 5)
    caches.first.set_if_newer(DEFAULT_TENANT, AccountId(1), balance)
    await caches.settled()
    reads = (caches.second.get(DEFAULT_TENANT, AccountId(1)) for _ in range(1_000))
    assert set(await asyncio.gather(*reads)) == {balance}


CACHE_CONTRACT: tuple[CacheCheck, ...] = (
    check_what_is_stored_is_found_by_both,
    check_the_newest_wins_in_any_order,
    check_nothing_shown_becomes_older,
    check_the_same_seq_is_stored_once,
    check_tenants_are_apart,
    check_what_is_forgotten_is_gone_when_forget_returns,
    check_many_readers_are_all_answered,
)
