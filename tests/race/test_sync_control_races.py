"""Operators, logins and workers of two processes at once: nobody is asked for twice at once, nothing is lost."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from steelyard.access.model import system_principal
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.providers.contract import Limits
from steelyard.runtime.database import Database
from steelyard.sync.control_sync import ControlOrder, cancel_sync, pause_sync, resume_sync
from steelyard.sync.model import Priority
from steelyard.sync.raise_target import SyncRequest, raise_users
from steelyard.sync.recover import lower_unwaited
from tests.sync_kit import BANK, INTERVAL, SyncWorld, open_sync_world, working
from tests.world import World

USERS = [f"u{i}" for i in range(8)]
ACTOR = system_principal(DEFAULT_TENANT, "test")


@pytest.fixture
async def synced(world: World) -> SyncWorld:
    """Eight users with two accounts each."""
    made = await open_sync_world(world)
    await made.enroll(USERS, accounts_each=2, interval=None)
    return made


@pytest.fixture
async def pools(world: World) -> AsyncIterator[list[Database]]:
    """A pool for each of four processes."""
    opened = [await Database.open(world.fresh.app_url, pool_size=4) for _ in range(4)]
    yield opened
    for pool in opened:
        await pool.close()


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 8))]
)
async def test_no_order_of_requests_pauses_and_cancels_loses_one_or_syncs_a_user_twice_at_once(
    synced: SyncWorld, pools: list[Database], seed: int
) -> None:
    chance = random.Random(seed)
    await synced.allow(Limits(100_000.0, 1_000))
    synced.bank.latency_s = 0.05
    database = synced.database

    async def ask(user: UserId) -> None:
        priority = chance.choice([Priority.MANUAL, Priority.LOGIN])
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            request = SyncRequest(user, BANK, priority)
            await raise_users(uow, [request], now=synced.clock.now())

    async def cancel(user: UserId) -> None:
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            order, now = ControlOrder(BANK, user), synced.clock.now()
            await cancel_sync(uow, ACTOR, order, interval=INTERVAL, now=now)
        await ask(user)

    async def pause(user: UserId) -> None:
        order = ControlOrder(BANK, chance.choice([user, None]))
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            await pause_sync(uow, ACTOR, order, now=synced.clock.now())
        await asyncio.sleep(chance.random() * 0.02)
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            await resume_sync(uow, ACTOR, order, now=synced.clock.now())

    async def log_in(user: UserId) -> None:
        logins = synced.logins(timeout_s=0.02)
        await logins.sync_with_timeout(DEFAULT_TENANT, user)
        await logins.close()

    async def act() -> None:
        acts: list[Callable[[UserId], Awaitable[None]]] = [ask, ask, cancel, pause, log_in]
        for _ in range(40):
            await chance.choice(acts)(UserId(chance.choice(USERS)))

    workers = [
        synced.worker(name=f"w{i}", database=pool, look_every_s=0.005)
        for i, pool in enumerate(pools[:2])
    ]
    async with working(workers[0]), working(workers[1]):
        await asyncio.gather(*(act() for _ in range(3)))
        synced.bank.money = dict.fromkeys(synced.bank.money, 77)
        for user in USERS:
            await ask(UserId(user))
        await synced.until_idle()
        await lower_unwaited(database, synced.clock)
    assert synced.bank.most_in_flight == 1
    admin = await synced.world.as_superuser()
    balances = await admin.fetch("SELECT posted FROM steelyard.account WHERE kind = 'mirrored'")
    open_runs = await admin.fetch("SELECT * FROM steelyard.run WHERE finished_at IS NULL")
    states = await admin.fetch("SELECT DISTINCT state FROM steelyard.run")
    targets = await admin.fetch("SELECT * FROM steelyard.sync_target")
    await admin.close()
    assert [row["posted"] for row in balances] == [77] * 2 * len(USERS)
    assert open_runs == []
    assert {row["state"] for row in states} <= {"completed", "cancelled"}
    for row in targets:
        left = {name: row[name] for name in ("run_id", "again_run_id", "lease_until", "paused_at")}
        assert set(left.values()) == {None}, left
        assert (row["priority"], row["again"], row["is_paused"]) == (0, False, False)


async def test_users_with_many_accounts_send_no_more_than_the_rate_in_any_window(
    synced: SyncWorld, pools: list[Database]
) -> None:
    rate, burst, late_s = 150.0, 15.0, 0.25  # from a grant to its request, on a busy machine
    more = [f"m{i}" for i in range(20)]
    await synced.enroll(more, accounts_each=20, interval=None)
    await synced.allow(Limits(rate, 1_000), burst=burst)
    sent: list[float] = []
    synced.bank.on_asked = lambda: sent.append(asyncio.get_running_loop().time())
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        requests = [SyncRequest(UserId(user), BANK) for user in more]
        await raise_users(uow, requests, now=synced.clock.now())
    workers = [synced.worker(name=f"w{i}", database=pool) for i, pool in enumerate(pools)]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    await synced.until_idle()
    for worker in workers:
        worker.stop()
    await asyncio.gather(*tasks)
    assert synced.bank.asked == {f"{user}-{i}": 1 for user in more for i in range(20)}
    for first in range(0, len(sent), 5):
        for last in range(first, len(sent), 5):
            window_s = sent[last] - sent[first]
            assert last - first + 1 <= burst + rate * (window_s + late_s)
    assert len(sent) >= 0.85 * rate * (sent[-1] - sent[0])
