"""Several workers on pools of their own, as several processes have: nobody synced twice at once, nothing lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.providers.contract import Limits
from steelyard.runtime.database import Database
from steelyard.sync.model import Priority
from steelyard.sync.raise_target import SyncRequest, raise_users
from tests.sync_kit import BANK, SyncWorld, open_sync_world, working
from tests.world import World

USERS = [f"u{i}" for i in range(20)]


@pytest.fixture
async def synced(world: World) -> SyncWorld:
    """Twenty users at a bank that allows all."""
    made = await open_sync_world(world)
    await made.enroll(USERS, interval=None)
    await made.allow(Limits(100_000.0, 1_000))
    return made


@pytest.fixture
async def pools(world: World) -> AsyncIterator[list[Database]]:
    """A pool for each of two processes."""
    opened = [await Database.open(world.fresh.app_url, pool_size=4) for _ in range(2)]
    yield opened
    for pool in opened:
        await pool.close()


async def ask_for_all(synced: SyncWorld, priority: Priority) -> None:
    """Ask for a sync of every user."""
    requests = [SyncRequest(UserId(user), BANK, priority) for user in USERS]
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        await raise_users(uow, requests, now=synced.clock.now())


async def test_two_workers_never_sync_a_user_twice_at_once_and_lose_no_request(
    synced: SyncWorld, pools: list[Database]
) -> None:
    synced.bank.latency_s = 0.01
    first, second = (synced.worker(name=f"w{i}", database=pool) for i, pool in enumerate(pools))
    async with working(first), working(second):
        for round_ in range(80):
            await ask_for_all(synced, Priority.LOGIN if round_ % 3 else Priority.MANUAL)
            await asyncio.sleep(0.02)
        # What is asked for after the money moved brings it, though syncs are in flight.
        synced.bank.money = dict.fromkeys(synced.bank.money, 77)
        await ask_for_all(synced, Priority.LOGIN)
        await synced.until_idle()
    assert synced.bank.most_in_flight == 1
    assert synced.bank.asked.total() > 200
    admin = await synced.world.as_superuser()
    states = await admin.fetch("SELECT state, count(*) AS runs FROM steelyard.run GROUP BY 1")
    balances = await admin.fetch("SELECT posted FROM steelyard.account WHERE kind = 'mirrored'")
    left = await admin.fetchval(
        "SELECT count(*) FROM steelyard.sync_target WHERE leased_by IS NOT NULL OR run_id IS NOT NULL"
    )
    await admin.close()
    assert {row["state"]: row["runs"] for row in states} == {"completed": synced.bank.asked.total()}
    assert [row["posted"] for row in balances] == [77] * len(USERS)
    assert left == 0


async def test_a_worker_that_wakes_after_its_lease_writes_nothing(
    synced: SyncWorld, pools: list[Database]
) -> None:
    slow_pool, quick_pool = pools
    slow = synced.worker(name="slow", database=slow_pool)
    await ask_for_all(synced, Priority.MANUAL)
    synced.bank.release = asyncio.Event()
    await slow.turn()
    await asyncio.sleep(0.05)  # its requests are under way
    held, synced.bank.release = synced.bank.release, None
    admin = await synced.world.as_superuser()
    # As if a minute had passed: leases ran out, and the bank's money moved on.
    await admin.execute(
        "UPDATE steelyard.sync_target SET lease_until = $1, due_at = $1", synced.clock.now()
    )
    synced.bank.money = dict.fromkeys(synced.bank.money, 2_000)
    quick = synced.worker(name="quick", database=quick_pool)
    await quick.turn()
    await quick.drain()
    synced.bank.money = dict.fromkeys(synced.bank.money, 9)
    held.set()
    await slow.drain()
    balances = await admin.fetch(
        "SELECT posted, seq FROM steelyard.account WHERE kind = 'mirrored'"
    )
    runs = await admin.fetch("SELECT state, attempts FROM steelyard.run")
    await admin.close()
    assert [tuple(row) for row in balances] == [(2_000, 1)] * len(USERS)
    assert [tuple(row) for row in runs] == [("completed", 2)] * len(USERS)
    assert (slow.late, quick.late) == (len(USERS), 0)


async def test_what_a_killed_worker_had_is_done_by_the_next_one(
    synced: SyncWorld, pools: list[Database]
) -> None:
    doomed = synced.worker(name="doomed", database=pools[0])
    await ask_for_all(synced, Priority.LOGIN)
    synced.bank.release = asyncio.Event()
    await doomed.turn()
    tasks = list(doomed._under_way)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pools[0].close()
    synced.bank.release = None
    admin = await synced.world.as_superuser()
    assert await admin.fetchval("SELECT count(*) FROM steelyard.run WHERE state = 'running'") == 20
    await admin.execute(
        "UPDATE steelyard.sync_target SET lease_until = $1, due_at = $1", synced.clock.now()
    )
    async with working(synced.worker(name="next", database=pools[1])):
        await synced.until_idle()
    runs = await admin.fetch("SELECT state, attempts, priority FROM steelyard.run")
    await admin.close()
    assert [tuple(row) for row in runs] == [("completed", 2, Priority.LOGIN)] * len(USERS)
