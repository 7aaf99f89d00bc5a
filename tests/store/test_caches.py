"""Every cache keeps the same promises; what is wrong in Redis is a miss, never a wrong balance."""

import asyncio
import time

import pytest

from steelyard.balances.account_owners import KnownOwners
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.reconcile.model import Fault
from steelyard.reconcile.operations import Reconcile
from steelyard.runtime.cache import CachedBalance, InProcessCache
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.redis.cache import READ_DEADLINE_S
from steelyard.testing.cache_contract import CACHE_CONTRACT, CacheCheck, CachesUnderTest
from tests.redis_kit import Process, Users, Valkey, new_key, processes, running_valkey, told, until
from tests.world import World

ONE, TWO = AccountId(1), AccountId(2)


@pytest.mark.parametrize("check", CACHE_CONTRACT, ids=lambda check: check.__name__)
async def test_the_cache_in_process_keeps_its_promises(check: CacheCheck) -> None:
    cache = InProcessCache(SystemClock())
    await check(CachesUnderTest(cache, cache))


@pytest.mark.parametrize("check", CACHE_CONTRACT, ids=lambda check: check.__name__)
async def test_the_cache_in_redis_keeps_its_promises(check: CacheCheck, valkey: Valkey) -> None:
    async with processes(valkey.url, 2) as (one, two):
        caches = CachesUnderTest(one.link.cache, two.link.cache, lambda: told(one, two))
        await check(caches)


async def store(process: Process, account: AccountId, balance: CachedBalance) -> None:
    """Store and wait until it is done."""
    process.link.cache.set_if_newer(DEFAULT_TENANT, account, balance)
    await told(process)


async def test_keys_are_as_the_reference_has_them(valkey: Valkey) -> None:
    users = Users(users={TWO: UserId("user-1")}, others={TWO})
    async with processes(valkey.url, 1, owners=users) as (one,):
        cache = one.link.cache
        cache.set_if_newer(DEFAULT_TENANT, ONE, CachedBalance(15_050, 2, 7))
        cache.set_if_newer(DEFAULT_TENANT, TWO, CachedBalance(300, 2, 1))
        cache.set_if_newer(TenantId("acme"), ONE, CachedBalance(-1, 0, 2))
        cache.set_if_newer(DEFAULT_TENANT, AccountId(0), CachedBalance(1, 2, 1))  # a book's
        await told(one)
        assert await valkey.ask("GET", "balance:user:user-1") == b"150.5"
        assert await valkey.ask("GET", "balance:account:2") == b"3"
        assert await valkey.ask("GET", "t:acme:balance:user:user-1") == b"-1"
        assert (await valkey.ask("GET", "balance:seq:user-1")).startswith(b"1:7:150.5:2:")
        assert sorted(await valkey.ask("KEYS", "*")) == [
            b"balance:account:2",
            b"balance:seq:account:2",
            b"balance:seq:user-1",
            b"balance:user:user-1",
            b"t:acme:balance:seq:user-1",
            b"t:acme:balance:user:user-1",
        ]
        for key in await valkey.ask("KEYS", "*"):
            assert 3_590 < await valkey.ask("TTL", key.decode()) <= 3_600


RUBBISH: dict[str, list[tuple[str, ...]]] = {
    "another number": [("SET", "balance:user:user-1", "999999")],
    "no number": [("SET", "balance:user:user-1", "<html>")],
    "a list": [("DEL", "balance:user:user-1"), ("LPUSH", "balance:user:user-1", "1")],
    "nothing": [("DEL", "balance:user:user-1")],
    "no record": [("DEL", "balance:seq:user-1")],
    "a list as the record": [("DEL", "balance:seq:user-1"), ("LPUSH", "balance:seq:user-1", "1")],
    "a record of words": [("SET", "balance:seq:user-1", "what is this")],
    "a record with another number": [
        ("SET", "balance:user:user-1", "7"),
        ("SET", "balance:seq:user-1", "1:5:7:2:0123456789abcdef"),
    ],
}


@pytest.mark.parametrize("rubbish", RUBBISH)
async def test_rubbish_is_a_miss_and_the_next_write_mends_it(valkey: Valkey, rubbish: str) -> None:
    async with processes(valkey.url, 1) as (one,):
        await store(one, ONE, CachedBalance(100, 2, 5))
        for command in RUBBISH[rubbish]:
            await valkey.ask(*command)
        assert await one.link.cache.get(DEFAULT_TENANT, ONE) is None
        await store(one, ONE, CachedBalance(200, 2, 6))
        assert await one.link.cache.get(DEFAULT_TENANT, ONE) == CachedBalance(200, 2, 6)


async def test_a_lost_number_comes_back_with_the_balance_the_reader_found(valkey: Valkey) -> None:
    async with processes(valkey.url, 1) as (one,):
        await store(one, ONE, CachedBalance(100, 2, 5))
        await valkey.ask("SET", "balance:user:user-1", "999")
        await store(one, ONE, CachedBalance(100, 2, 5))  # as `read_cached` does after a miss
        assert await one.link.cache.get(DEFAULT_TENANT, ONE) == CachedBalance(100, 2, 5)
        assert 3_590 < await valkey.ask("TTL", "balance:user:user-1") <= 3_600


async def test_a_changed_primary_account_takes_the_place_and_never_comes_back_older(
    valkey: Valkey,
) -> None:
    users = Users(users={ONE: UserId("anna"), TWO: UserId("anna")})
    async with processes(valkey.url, 1, owners=users) as (one,):
        cache = one.link.cache
        await store(one, ONE, CachedBalance(1_000, 2, 10))
        await store(one, TWO, CachedBalance(30, 2, 3))
        assert await valkey.ask("GET", "balance:user:anna") == b"0.3"
        assert await cache.get(DEFAULT_TENANT, ONE) is None  # the place speaks of the other account
        assert await cache.get(DEFAULT_TENANT, TWO) == CachedBalance(30, 2, 3)
        await store(one, ONE, CachedBalance(900, 2, 9))
        assert await valkey.ask("GET", "balance:user:anna") == b"0.3"
        await store(one, ONE, CachedBalance(1_000, 2, 10))
        assert await cache.get(DEFAULT_TENANT, ONE) == CachedBalance(1_000, 2, 10)
        await store(one, TWO, CachedBalance(20, 2, 2))
        assert await cache.get(DEFAULT_TENANT, ONE) == CachedBalance(1_000, 2, 10)


async def test_another_installation_on_the_same_server_is_not_believed(valkey: Valkey) -> None:
    async with (
        processes(valkey.url, 1) as (mine,),
        processes(valkey.url, 1, key=new_key()) as (other,),
    ):
        await store(other, ONE, CachedBalance(100, 2, 5))
        assert await mine.link.cache.get(DEFAULT_TENANT, ONE) is None
        assert await other.link.cache.get(DEFAULT_TENANT, ONE) is not None


async def test_what_another_process_read_before_a_repair_is_not_stored_after_it(
    valkey: Valkey,
) -> None:
    async with processes(valkey.url, 2) as (repairing, reading):
        await store(reading, ONE, CachedBalance(666, 2, 5))
        await repairing.link.cache.forget(DEFAULT_TENANT, [ONE])
        await store(reading, ONE, CachedBalance(666, 2, 5))
        assert await reading.link.cache.get(DEFAULT_TENANT, ONE) is None
        assert await valkey.ask("GET", "balance:user:user-1") is None
        assert 0 < await valkey.ask("PTTL", "balance:seq:user-1") <= 3_000
        await valkey.ask("DEL", "balance:seq:user-1")  # three seconds later
        await store(repairing, ONE, CachedBalance(500, 2, 5))
        assert await reading.link.cache.get(DEFAULT_TENANT, ONE) == CachedBalance(500, 2, 5)


async def test_nobody_waits_for_a_server_that_is_away_or_hangs() -> None:
    async with (
        running_valkey() as valkey,
        processes(valkey.url, 1, read_deadline_s=READ_DEADLINE_S) as (one,),
    ):
        await store(one, ONE, CachedBalance(100, 2, 5))
        for hurt in (valkey.pause, valkey.kill):
            hurt()
            began_s = time.monotonic()
            for _ in range(50):
                assert await one.link.cache.get(DEFAULT_TENANT, ONE) is None
                one.link.cache.set_if_newer(DEFAULT_TENANT, ONE, CachedBalance(200, 2, 6))
            assert time.monotonic() - began_s < 3  # one read waited 100 ms; the others knew
            assert await one.link.cache.get_many(DEFAULT_TENANT, [ONE]) == {}
            valkey.resume() if hurt == valkey.pause else await valkey.restart()
            cache, newest = one.link.cache, 7 if hurt == valkey.pause else 8
            async with asyncio.timeout(10):
                while await cache.get(DEFAULT_TENANT, ONE) != CachedBalance(300, 2, newest):
                    cache.set_if_newer(DEFAULT_TENANT, ONE, CachedBalance(300, 2, newest))
                    await asyncio.sleep(0.05)


async def test_what_waited_while_a_server_forgot_everything_is_not_its_newest() -> None:
    async with running_valkey() as valkey, processes(valkey.url, 2) as (slow, quick):
        await store(slow, ONE, CachedBalance(100, 2, 5))
        await store(slow, TWO, CachedBalance(100, 2, 5))
        valkey.kill()
        slow.link.cache.set_if_newer(DEFAULT_TENANT, ONE, CachedBalance(200, 2, 6))
        await asyncio.sleep(1.1)
        await valkey.restart()
        await told(slow)
        # Another process may have shown seq 7 before the server forgot: only what is fresh is stored on nothing.
        assert await valkey.ask("KEYS", "*") == []
        await store(quick, ONE, CachedBalance(300, 2, 7))
        assert await slow.link.cache.get(DEFAULT_TENANT, ONE) == CachedBalance(300, 2, 7)


async def test_what_waited_while_a_server_hung_replaces_what_it_still_holds() -> None:
    async with running_valkey() as valkey, processes(valkey.url, 1) as (one,):
        await store(one, ONE, CachedBalance(100, 2, 5))
        valkey.pause()
        one.link.cache.set_if_newer(DEFAULT_TENANT, ONE, CachedBalance(200, 2, 6))
        await asyncio.sleep(2.2)
        valkey.resume()
        await told(one)
        await until(lambda: one.link.writer.waiting == 0)
        assert await valkey.ask("GET", "balance:user:user-1") == b"2"


async def test_the_scripts_may_be_forgotten_too(valkey: Valkey) -> None:
    async with processes(valkey.url, 1) as (one,):
        await store(one, ONE, CachedBalance(100, 2, 5))
        await valkey.ask("SCRIPT", "FLUSH")
        await store(one, ONE, CachedBalance(200, 2, 6))
        assert await one.link.cache.get(DEFAULT_TENANT, ONE) == CachedBalance(200, 2, 6)
        assert one.link.counts.failures == 0


async def test_a_proof_finds_a_wrong_balance_in_redis_and_a_fix_drops_it_before_it_answers(
    world: World, valkey: Valkey
) -> None:
    account = await world.open_account(10_000, user="anna")
    other = await world.open_account(500, user="anna")
    owners = KnownOwners(world.database, world.clock)
    async with processes(valkey.url, 1, owners=owners) as (one,):
        await store(one, account, CachedBalance(10_001, 2, 1))
        await store(one, other, CachedBalance(500, 2, 1))
        assert await valkey.ask("GET", "balance:user:anna") == b"100.01"
        assert await valkey.ask("GET", f"balance:account:{other}") == b"5"
        reconcile = Reconcile(
            world.database, DEFAULT_TENANT, world.clock, cache=one.link.cache, bus=one.bus
        )
        found = (await reconcile.verify()).details
        assert [(one.fault, one.account, one.stored, one.actual) for one in found] == [
            (Fault.CACHE, account, 10_001, 10_000)
        ]
        report = await reconcile.verify_and_fix()
        assert await valkey.ask("GET", "balance:user:anna") is None
        assert report.errors == []
        assert await one.link.cache.get(DEFAULT_TENANT, other) == CachedBalance(500, 2, 1)
