"""Targets in a real database: leased once, fenced, raised, never queued twice, never beyond the budget."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from steelyard.balances.store import open_book
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.mirror.apply_readings import apply_readings
from steelyard.mirror.model import MirroredAccount, NewMirroredAccount, ShownBalance
from steelyard.mirror.open_accounts import open_accounts
from steelyard.mirror.store import load_accounts
from steelyard.providers.contract import Limits
from steelyard.providers.errors import ProviderRateLimited, ProviderTransient
from steelyard.reconcile.verify import Scope, verify_tenant
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.sync import run_targets
from steelyard.sync.model import Fetched, Lease, Priority, Raised, Reason
from steelyard.sync.raise_target import SyncRequest, queue_sync, raise_users
from steelyard.sync.recover import free_lost_leases
from steelyard.sync.rules import Cadence
from steelyard.sync.status import load_status
from steelyard.testing.clock import FrozenClock
from tests.sync_kit import BANK, INTERVAL, SyncWorld, open_sync_world, until
from tests.world import World

CADENCES = {BANK: Cadence(INTERVAL, 1)}


@pytest.fixture
async def synced(world: World) -> SyncWorld:
    """A world with the bank, in which time stands still."""
    return await open_sync_world(world, FrozenClock())


def let_pass(synced: SyncWorld, seconds: float) -> None:
    """Move the world's clock."""
    assert isinstance(synced.clock, FrozenClock)
    synced.clock.move(timedelta(seconds=seconds))


async def raise_user(synced: SyncWorld, user: str, priority: Priority) -> Raised:
    """Ask for one sync."""
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        request = SyncRequest(UserId(user), BANK, priority)
        [raised] = await raise_users(uow, [request], now=synced.clock.now())
    return raised


async def write(synced: SyncWorld, *results: Fetched) -> int:
    """Write results; returns how many were accepted."""
    return len(await synced.writer().write(DEFAULT_TENANT, results, CADENCES))


def told(synced: SyncWorld, lease: Lease, account: int, minor: int) -> Fetched:
    """An attempt that read one balance."""
    shown = ShownBalance(account, minor, synced.clock.now(), {"available": minor})  # type: ignore[arg-type]
    return Fetched(lease, (shown,), requests=1)


# --- leases ------------------------------------------------------------------------------------


async def test_a_target_is_leased_once_and_again_only_after_its_lease_ran_out(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a", "b"])
    await synced.make_due()
    first = await synced.lease(lease_s=30)
    assert {lease.subject for lease in first.leases} == {"a", "b"}
    let_pass(synced, 29)
    assert (await synced.lease()).leases == []
    let_pass(synced, 2)
    again = (await synced.lease()).leases
    assert {lease.subject for lease in again} == {"a", "b"}
    before = {lease.subject: lease.token for lease in first.leases}
    assert all(lease.token == before[lease.subject] + 1 for lease in again)
    assert [lease.attempts for lease in again] == [2, 2]


async def test_higher_priority_is_leased_first_then_what_waited_longest(synced: SyncWorld) -> None:
    await synced.enroll(["old", "young", "manual", "login"])
    await synced.make_due()
    admin = await synced.world.as_superuser()
    await admin.execute(
        "UPDATE steelyard.sync_target SET due_at = due_at - interval '1 min' WHERE subject = 'old'"
    )
    await admin.close()
    await raise_user(synced, "manual", Priority.MANUAL)
    await raise_user(synced, "login", Priority.LOGIN)
    order = [(await synced.lease(most=1)).leases[0].subject for _ in range(4)]
    assert order == ["login", "manual", "old", "young"]


async def test_a_user_with_many_accounts_sends_no_more_than_is_permitted_and_gets_there_in_parts(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["many"], accounts_each=25)
    await synced.enroll(["login"])
    await synced.allow(Limits(10.0, 10), burst=10)
    await raise_user(synced, "many", Priority.MANUAL)
    worker = synced.worker(fetch_deadline_s=0.2)  # the world's clock stands still meanwhile
    for asked in (8, 16, 24):  # two of ten are kept for logins
        await worker.turn()
        await worker.drain()
        assert synced.bank.asked.total() == asked
        [run] = await synced.runs("many")
        assert (run["state"], run["error"]) == ("retrying", None)
        assert (await synced.target("many"))["last_result"] == "more_requests_needed"
        let_pass(synced, 0.8)
    await raise_user(synced, "login", Priority.LOGIN)
    await worker.turn()
    await worker.drain()
    assert synced.bank.asked == {f"many-{i}": 1 for i in range(25)} | {"login-0": 1}
    [run] = await synced.runs("many")
    assert (run["state"], run["attempts"]) == ("completed", 4)


async def test_logins_get_their_part_while_a_user_with_many_accounts_waits_for_permits(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["many"], accounts_each=25)
    await synced.enroll(["login", "other"])
    await synced.allow(Limits(10.0, 10), burst=10)
    await raise_user(synced, "many", Priority.MANUAL)
    worker = synced.worker(fetch_deadline_s=5)
    await worker.turn()
    await until(lambda: synced.bank.asked.total() == 8)
    await raise_user(synced, "other", Priority.MANUAL)
    await raise_user(synced, "login", Priority.LOGIN)
    await worker.turn()
    await until(lambda: synced.bank.asked["login-0"])
    assert synced.bank.asked.total() == 9
    assert synced.bank.asked["other-0"] == 0
    await worker.abandon()


async def test_a_late_workers_result_changes_nothing(synced: SyncWorld) -> None:
    accounts = await synced.enroll(["a"])
    await synced.make_due()
    [slow] = (await synced.lease(worker="slow", lease_s=10)).leases
    let_pass(synced, 11)
    # Nobody has it yet, but the lease is over: a worker that slept may hold an old reading.
    assert await write(synced, told(synced, slow, accounts["a"], 5)) == 0
    [quick] = (await synced.lease(worker="quick", lease_s=10)).leases
    assert await write(synced, told(synced, slow, accounts["a"], 5)) == 0
    assert (await synced.world.balance(accounts["a"])).posted == 0
    assert await write(synced, told(synced, quick, accounts["a"], 700)) == 1
    assert await write(synced, told(synced, quick, accounts["a"], 5)) == 0
    balance = await synced.world.balance(accounts["a"])
    assert (balance.posted, balance.seq) == (700, 1)
    [run] = await synced.runs("a")
    assert (run["state"], run["attempts"]) == ("completed", 2)
    target = await synced.target("a")
    assert (target["lease_until"], target["last_result"]) == (None, "ok")
    assert target["last_success_at"] == synced.clock.now()


async def test_what_was_read_for_a_removed_target_fits_no_lease_of_the_next_one(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"])
    await synced.make_due()
    [old] = (await synced.lease()).leases
    admin = await synced.world.as_superuser()
    await admin.execute("DELETE FROM steelyard.sync_target")
    await admin.close()
    await raise_user(synced, "a", Priority.LOGIN)
    [new] = (await synced.lease()).leases
    assert await write(synced, told(synced, old, accounts["a"], 5)) == 0
    assert await write(synced, told(synced, new, accounts["a"], 7)) == 1
    assert (await synced.world.balance(accounts["a"])).posted == 7


async def test_many_results_are_written_in_one_call_and_each_is_judged_alone(
    synced: SyncWorld,
) -> None:
    users = [f"u{i}" for i in range(50)]
    accounts = await synced.enroll(users)
    await synced.make_due()
    leases = (await synced.lease()).leases
    results = [told(synced, lease, accounts[lease.subject], 10) for lease in leases]
    foreign = [Fetched(replace(one.lease, token=99)) for one in results[:5]]
    assert await write(synced, *foreign, *results[5:]) == 45
    states = [(await synced.runs(lease.subject))[0]["state"] for lease in leases]
    assert states == ["running"] * 5 + ["completed"] * 45


async def test_a_dead_workers_targets_are_due_again_and_after_three_its_run_is_expired(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"])
    asked = await raise_user(synced, "a", Priority.LOGIN)
    for _ in range(3):
        [lease] = (await synced.lease(lease_s=10)).leases
        assert lease.run == asked.run
        let_pass(synced, 11)
    assert (await load_status(synced.database, synced.clock)).processing is False
    assert await free_lost_leases(synced.database, synced.clock) == 1
    assert await free_lost_leases(synced.database, synced.clock) == 0
    assert [run["state"] for run in await synced.runs("a")] == ["retrying"]
    [lease] = (await synced.lease(lease_s=10)).leases
    assert lease.run != asked.run
    expired, running = await synced.runs("a")
    assert (expired["state"], expired["finished_at"]) == ("expired", synced.clock.now())
    assert json.loads(str(expired["error"]))["code"] == "worker_lost"
    assert (running["state"], running["attempts"], lease.attempts) == ("running", 1, 1)


# --- asking ------------------------------------------------------------------------------------


async def test_a_user_is_never_queued_twice_and_requests_share_the_run(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    first = await raise_user(synced, "a", Priority.MANUAL)
    second = await raise_user(synced, "a", Priority.MANUAL)
    login = await raise_user(synced, "a", Priority.LOGIN)
    assert (first.is_new, second.is_new, login.is_new) == (True, False, False)
    assert first.run == second.run == login.run is not None
    assert (await synced.target("a"))["priority"] == Priority.LOGIN
    [lease] = (await synced.lease()).leases
    assert (lease.run, lease.priority) == (first.run, Priority.LOGIN)
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert await queue_sync(uow, UserId("a"), BANK, now=synced.clock.now()) is True
        assert await queue_sync(uow, UserId("a"), BANK, now=synced.clock.now()) is False


async def test_a_sync_asked_for_while_one_is_in_flight_runs_once_more_after_it(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"])
    await synced.make_due()
    [lease] = (await synced.lease()).leases
    login = await raise_user(synced, "a", Priority.LOGIN)
    same = await raise_user(synced, "a", Priority.MANUAL)
    assert login.run == same.run != lease.run
    assert (await synced.lease()).leases == []
    assert await write(synced, told(synced, lease, accounts["a"], 1)) == 1
    [again] = (await synced.lease()).leases
    assert (again.run, again.priority) == (login.run, Priority.LOGIN)
    assert await write(synced, told(synced, again, accounts["a"], 2)) == 1
    assert (await synced.lease()).leases == []
    target = await synced.target("a")
    assert (target["priority"], target["again"], target["run_id"]) == (0, False, None)
    assert [run["state"] for run in await synced.runs("a")] == ["completed"] * 2


async def test_those_who_may_not_be_synced_are_refused_and_nothing_is_written(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["inactive", "paused"])
    await synced.enroll(["closed"], is_active=False)
    await synced.world.open_account(5, user="wallet")
    admin = await synced.world.as_superuser()
    await admin.execute("UPDATE steelyard.app_user SET status = 'inactive' WHERE id = 'inactive'")
    await admin.execute(
        "UPDATE steelyard.sync_target SET is_paused = true WHERE subject = 'paused'"
    )
    expected = {
        "wallet": Reason.WALLET,
        "nobody": Reason.UNKNOWN_USER,
        "inactive": Reason.INACTIVE,
        "closed": Reason.NO_ACCOUNTS,
        "paused": Reason.PAUSED,
    }
    for user, reason in expected.items():
        assert await raise_user(synced, user, Priority.LOGIN) == Raised(None, False, reason)
    assert await admin.fetchval("SELECT count(*) FROM steelyard.run") == 0
    assert await admin.fetchval("SELECT count(*) FROM steelyard.sync_target") == 2
    await admin.close()


async def test_one_who_becomes_a_wallet_user_is_not_asked_for_and_forgotten(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"])
    asked = await raise_user(synced, "a", Priority.LOGIN)
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        await uow.execute(
            "UPDATE steelyard.app_user SET context = 'WALLET' WHERE tenant_id = 'default'"
        )
    await work(synced)
    assert synced.bank.asked.total() == 0
    assert await synced.target("a") == {}
    [run] = await synced.runs("a")
    assert (run["id"], run["state"]) == (asked.run, "cancelled")


# --- budgets -----------------------------------------------------------------------------------


async def test_nothing_beyond_the_bucket_is_leased_and_logins_have_a_part_of_their_own(
    synced: SyncWorld,
) -> None:
    await synced.enroll([f"u{i}" for i in range(30)])
    await synced.make_due()
    await synced.allow(Limits(10.0, 100))
    assert len((await synced.lease()).leases) == 8
    assert len((await synced.lease()).leases) == 0
    await raise_user(synced, "u29", Priority.LOGIN)
    [login] = (await synced.lease()).leases
    assert login.subject == "u29"
    let_pass(synced, 0.5)
    assert len((await synced.lease()).leases) == 4
    let_pass(synced, 60)
    assert len((await synced.lease(lease_s=1)).leases) == 8


async def test_no_more_is_in_flight_than_the_source_bears(synced: SyncWorld) -> None:
    await synced.allow(Limits(1000.0, 10))
    await synced.enroll([f"u{i}" for i in range(30)])
    await synced.make_due()
    assert len((await synced.lease()).leases) == 8
    await raise_user(synced, "u28", Priority.LOGIN)
    await raise_user(synced, "u29", Priority.LOGIN)
    assert len((await synced.lease()).leases) == 2
    assert len((await synced.lease()).leases) == 0


async def test_four_workers_at_once_never_exceed_the_rate_in_any_window(
    world: World, fresh_pools: list[Database]
) -> None:
    synced = await open_sync_world(world)
    rate, burst = 200.0, 20.0
    await synced.allow(Limits(rate, 10_000), burst=burst)
    await synced.enroll([f"u{i}" for i in range(1_500)])
    await synced.make_due()
    granted: list[datetime] = []
    loop = asyncio.get_running_loop()
    end_s = loop.time() + 2.0

    async def take(database: Database, name: str) -> None:
        own = SyncWorld(World(**{**vars(world), "database": database}), synced.bank, synced.clock)
        while loop.time() < end_s:
            taken = await own.lease(worker=name)
            granted.extend(lease.until for lease in taken.leases)
            await asyncio.sleep(0.005)

    await asyncio.gather(*(take(one, f"w{i}") for i, one in enumerate(fresh_pools)))
    at = sorted(granted)  # a lease's end is its grant, moved by the same 30 s
    for first in range(0, len(at), 7):
        for last in range(first, len(at), 7):
            window_s = (at[last] - at[first]).total_seconds()
            assert last - first + 1 <= burst + rate * window_s + 1e-6
    assert len(at) >= 0.9 * rate * (at[-1] - at[0]).total_seconds()


@pytest.fixture
async def fresh_pools(world: World) -> AsyncIterator[list[Database]]:
    """Four pools, as four processes have."""
    pools = [await Database.open(world.fresh.app_url, pool_size=2) for _ in range(4)]
    yield pools
    for pool in pools:
        await pool.close()


# --- plans -------------------------------------------------------------------------------------

FILL = """
INSERT INTO steelyard.sync_target (tenant_id, kind, subject, provider, due_at)
SELECT 'default', 'update-balances', 'fill-' || i, 'fakebank', $1::timestamptz + i * interval '1 ms'
  FROM generate_series(1, $2::int) i
"""
FILL_MANY = FILL.replace("fill-", "more-")
RUNS = """
INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, created_at, finished_at)
SELECT 'default', nextval('steelyard.run_id'), 'update-balances', 'old-' || i, 0, 'completed', $1, $1
  FROM generate_series(1, $2::int) i
"""


async def blocks_of(synced: SyncWorld, call: str, *arguments: object) -> int:
    """How many blocks one call of a function reads, everything inside counted."""
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        text = await uow.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM steelyard.{call}", *arguments
        )
    plan = json.loads(text)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


async def cycle_blocks(synced: SyncWorld, batch: int) -> tuple[int, int]:
    """Blocks read by leasing a batch, and by finishing it."""
    lease = await blocks_of(
        synced,
        "lease_targets($1, 'default', 'fakebank', 'w', '30 s', $2, $2, 100, 3)",
        synced.clock.now(),
        batch,
    )
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        rows = await uow.fetch(
            "SELECT kind, subject, lease_token FROM steelyard.sync_target WHERE lease_until IS NOT NULL"
        )
    kinds, users, tokens = ([row[i] for row in rows] for i in range(3))
    finish = await blocks_of(
        synced,
        "finish_targets($1, 'default', $2, $3, $4, $5, $6, $7, $5, $8, $8, $9, $10, $6)",
        synced.clock.now(),
        kinds,
        users,
        tokens,
        ["completed"] * len(rows),
        [synced.clock.now() + timedelta(days=1)] * len(rows),
        [1] * len(rows),
        [None] * len(rows),
        [False] * len(rows),
        ["{7}"] * len(rows),
    )
    return lease, finish


async def test_a_batch_reads_no_more_with_many_targets_and_runs_than_with_few(
    synced: SyncWorld,
) -> None:
    admin = await synced.world.as_superuser()
    now = synced.clock.now()
    for _ in range(8):  # this connection's plans are made while every table is empty
        await cycle_blocks(synced, 20)
    await admin.execute(FILL, now - timedelta(seconds=1), 400)
    few = [await cycle_blocks(synced, 20) for _ in range(5)]
    # Half of them are due, half are resting; a long history of runs.
    await admin.execute(FILL_MANY, now - timedelta(seconds=50), 100_000, timeout=60)
    await admin.execute(RUNS, now, 100_000, timeout=60)
    if admin.get_server_version().major < 17:
        # Costs of lookups by an array changed: until autovacuum has counted the rows, as it does within a minute or
        # two, plans of these releases read all targets of the tenant.
        await admin.execute("ANALYZE steelyard.sync_target, steelyard.run", timeout=60)
    many = [await cycle_blocks(synced, 20) for _ in range(5)]
    let_pass(synced, -60)
    none_due, _ = await cycle_blocks(synced, 20)
    await admin.close()
    assert min(few)[0] > 100
    for at in (0, 1):  # each of the indexes of runs may be a level deeper
        assert min(m[at] for m in many) <= 1.75 * min(f[at] for f in few), (few, many)
    assert none_due <= 30, none_due


# --- what the bank says ------------------------------------------------------------------------


async def work(synced: SyncWorld) -> None:
    """Let a worker do what is due now."""
    worker = synced.worker()
    await worker.turn()
    await worker.drain()


async def test_a_changed_reading_is_one_change_and_one_event_and_an_unchanged_one_is_none(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"])
    for minor in (1_000, 1_000, 400):
        synced.bank.money["a-0"] = minor
        await raise_user(synced, "a", Priority.MANUAL)
        await work(synced)
        let_pass(synced, 1)
    changes = await synced.world.changes(accounts["a"])
    assert [(c.kind, c.amount, c.balance_after, c.seq) for c in changes] == [
        ("sync", 1_000, 1_000, 1),
        ("sync", -600, 400, 2),
    ]
    events = synced.world.heard.events
    assert [(e.event, e.user, e.kind, e.amount, e.available, e.transaction) for e in events] == [
        ("balance_updated", "a", "sync", 1_000, 1_000, None),
        ("balance_updated", "a", "sync", -600, 400, None),
    ]
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        row = await uow.fetchrow("SELECT readings, read_at FROM steelyard.mirrored_account")
    assert row is not None
    assert json.loads(row["readings"]) == {"ledger": 407, "available": 400}
    assert row["read_at"] == synced.clock.now() - timedelta(seconds=1)
    assert synced.bank.asked["a-0"] == 3


async def test_readings_of_a_clock_that_was_fast_keep_no_later_one_out(synced: SyncWorld) -> None:
    accounts = await synced.enroll(["a"])
    for minor, moved_s in ((1_000, -3_600), (400, 1)):
        synced.bank.money["a-0"] = minor
        await raise_user(synced, "a", Priority.MANUAL)
        await work(synced)
        let_pass(synced, moved_s)
        await forget_clock(synced)
    assert (await synced.world.balance(accounts["a"])).posted == 400


async def test_accounts_are_told_of_and_read_at_once_without_a_deadlock(synced: SyncWorld) -> None:
    ids = await synced.enroll(["a", "b"])
    now = synced.clock.now()
    wanted = [
        NewMirroredAccount(UserId(user), BANK, f"{user}-0", find_currency("GBP"), is_primary=True)
        for user in ("b", "a")
    ]

    async def tell() -> None:
        async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
            await open_accounts(uow, wanted, now=now)

    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        await apply_readings(uow, [ShownBalance(ids["a"], 1, now, {})], now=now)
        telling = asyncio.create_task(tell())
        await asyncio.sleep(0.3)  # it waits for the first account, and has to hold no other
        await apply_readings(uow, [ShownBalance(ids["b"], 2, now, {})], now=now)
    await telling
    assert (await synced.world.balance(ids["b"])).posted == 2


async def forget_clock(synced: SyncWorld) -> None:
    """Let budget and targets stand at this moment, so that only the readings are of another clock."""
    admin = await synced.world.as_superuser()
    now = synced.clock.now()
    await admin.execute("UPDATE steelyard.provider_budget SET refilled_at = $1", now)
    await admin.execute("UPDATE steelyard.sync_target SET due_at = $1", now)
    await admin.close()


async def test_mirrored_balances_are_proved_like_all_others(synced: SyncWorld) -> None:
    accounts = await synced.enroll(["a", "b"])
    for minor in (1_000, 250):
        synced.bank.money["a-0"] = minor
        for user in ("a", "b"):
            await raise_user(synced, user, Priority.MANUAL)
        await work(synced)
        let_pass(synced, 1)
    await synced.world.open_account(500, user="a")
    scope = Scope(synced.database, DEFAULT_TENANT, synced.world.cache)
    assert (await verify_tenant(scope)).details == []
    admin = await synced.world.as_superuser()
    await admin.execute("UPDATE steelyard.account SET posted = 3 WHERE id = $1", accounts["a"])
    await admin.close()
    found = await verify_tenant(scope)
    assert {one.account for one in found.details} == {accounts["a"]}


async def test_an_account_the_bank_does_not_know_is_told_and_the_others_are_read(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"], accounts_each=3)
    del synced.bank.money["a-1"]
    await raise_user(synced, "a", Priority.MANUAL)
    await work(synced)
    assert synced.bank.asked == {"a-0": 1, "a-1": 1, "a-2": 1}
    assert (await synced.world.balance(accounts["a"])).posted == 1_000
    [run] = await synced.runs("a")
    target = await synced.target("a")
    assert (run["state"], target["last_result"]) == ("failed", "provider_not_found")
    assert (target["last_success_at"], target["cost"]) == (None, 3)


async def test_a_source_that_fails_is_tried_three_times_then_left_until_the_next_period(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"])
    synced.bank.error = ProviderTransient(provider=BANK, reason="status_503")
    asked = await raise_user(synced, "a", Priority.LOGIN)
    waits = []
    for _ in range(3):
        await work(synced)
        due = (await synced.target("a"))["due_at"]
        assert isinstance(due, datetime)
        waits.append((due - synced.clock.now()).total_seconds())
        let_pass(synced, waits[-1])
    assert waits[:2] == [1.0, 2.0]
    assert 270.0 <= waits[2] <= 330.0
    [run] = await synced.runs("a")
    assert (run["id"], run["state"], run["attempts"]) == (asked.run, "failed", 3)
    assert json.loads(str(run["error"]))["code"] == "provider_transient"
    target = await synced.target("a")
    assert (target["priority"], target["last_success_at"]) == (0, None)


async def test_a_source_that_asks_to_wait_is_not_asked_by_anybody_until_then(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a", "b"])
    synced.bank.error = ProviderRateLimited(provider=BANK, reason="status_429", retry_after_s=30.0)
    await raise_user(synced, "a", Priority.LOGIN)
    await work(synced)
    await raise_user(synced, "b", Priority.LOGIN)
    let_pass(synced, 29)
    await work(synced)
    assert synced.bank.asked == {"a-0": 1}
    synced.bank.error = None
    let_pass(synced, 2)
    await work(synced)
    assert synced.bank.asked == {"a-0": 2, "b-0": 1}


async def test_a_source_that_is_down_is_asked_once_in_a_while_and_no_run_is_spent_on_it(
    synced: SyncWorld,
) -> None:
    await synced.enroll([f"u{i}" for i in range(40)])
    await synced.make_due()
    synced.bank.error = ProviderTransient(provider=BANK, reason="connect")
    await synced.allow(Limits(1000.0, 10))
    await work(synced)
    assert synced.bank.asked.total() == 8
    for _ in range(9):
        let_pass(synced, 1)
        await work(synced)
    assert synced.bank.asked.total() == 8
    let_pass(synced, 2)
    await work(synced)
    assert synced.bank.asked.total() == 9
    synced.bank.error = None
    let_pass(synced, 21)
    await work(synced)
    assert synced.bank.asked.total() == 10
    await work(synced)
    assert synced.bank.asked.total() == 18


async def test_a_provider_that_breaks_its_contract_ends_its_lease_only(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    synced.bank.broken = True
    for _ in range(3):
        await raise_user(synced, "a", Priority.MANUAL)
        await work(synced)
    [run] = await synced.runs("a")
    assert (run["state"], run["attempts"]) == ("failed", 3)
    assert (await synced.target("a"))["last_result"] == "provider_unclassified"


async def test_a_worker_that_slept_on_a_lease_does_not_ask(
    synced: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await synced.enroll(["a"])
    await raise_user(synced, "a", Priority.MANUAL)

    async def load_late(
        uow: UnitOfWork, users: Sequence[UserId], provider: str
    ) -> dict[UserId, list[MirroredAccount]]:
        let_pass(synced, 5)  # of 15: what is left is for writing
        return await load_accounts(uow, users, provider)

    with monkeypatch.context() as patched:
        patched.setattr(run_targets, "load_accounts", load_late)
        await work(synced)
    assert synced.bank.asked.total() == 0
    assert (await synced.target("a"))["last_result"] == "worker_late"
    let_pass(synced, 1)
    await work(synced)
    assert [run["state"] for run in await synced.runs("a")] == ["completed"]


async def test_a_source_that_is_stopped_ends_what_is_in_flight_after_its_request(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"], accounts_each=3)
    await raise_user(synced, "a", Priority.MANUAL)
    synced.bank.release = asyncio.Event()
    worker = synced.worker()
    await worker.turn()
    await until(lambda: synced.bank.in_flight["a-0"])
    admin = await synced.world.as_superuser()
    blocked = synced.clock.now() + timedelta(seconds=10)
    await admin.execute("UPDATE steelyard.provider_budget SET blocked_until = $1", blocked)
    await admin.close()
    synced.bank.release.set()
    await worker.drain()
    assert synced.bank.asked == {"a-0": 1}
    assert (await synced.world.balance(accounts["a"])).posted == 1_000
    let_pass(synced, 11)
    await work(synced)
    assert synced.bank.asked == {"a-0": 1, "a-1": 1, "a-2": 1}
    assert [run["state"] for run in await synced.runs("a")] == ["completed"]


async def test_a_run_reads_again_what_it_read_before_it_was_asked_for_again(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"], accounts_each=2)
    del synced.bank.money["a-1"]
    await raise_user(synced, "a", Priority.MANUAL)
    await work(synced)
    synced.bank.money |= {"a-0": 2_000, "a-1": 1}
    admin = await synced.world.as_superuser()
    await admin.execute(
        "UPDATE steelyard.sync_target SET due_at = 'infinity', run_id = $1, attempts = 1",
        (await synced.runs("a"))[0]["id"],
    )
    await admin.execute("UPDATE steelyard.run SET state = 'retrying', finished_at = NULL")
    await admin.close()
    await raise_user(synced, "a", Priority.LOGIN)
    await work(synced)
    assert (await synced.world.balance(accounts["a"])).posted == 2_000


async def test_the_last_attempt_of_a_run_is_granted_what_it_needs(synced: SyncWorld) -> None:
    await synced.enroll(["a"], accounts_each=3)
    await raise_user(synced, "a", Priority.MANUAL)
    synced.bank.error = ProviderTransient(provider=BANK, reason="status_503")
    for wait_s in (1, 2):
        await work(synced)
        let_pass(synced, wait_s)
    synced.bank.error = None
    await work(synced)
    assert [run["state"] for run in await synced.runs("a")] == ["completed"]
    target = await synced.target("a")
    assert (target["cost"], target["last_result"]) == (3, "ok")


async def test_an_account_that_the_bank_tells_in_another_currency_is_told_with_what_to_do(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"])
    synced.bank.currency = find_currency("USD")
    await raise_user(synced, "a", Priority.MANUAL)
    await work(synced)
    [run] = await synced.runs("a")
    error = json.loads(str(run["error"]))
    assert (run["state"], error["code"]) == ("failed", "balance_other_currency")
    assert "in USD" in error["message"]
    assert "steelyard sync add a NUMBER --currency USD" in error["message"]
    assert (await synced.world.balance(accounts["a"])).posted == 0
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        now = synced.clock.now()
        await open_book(uow, find_currency("USD"), now=now)
        told = NewMirroredAccount(UserId("a"), BANK, "a-0", find_currency("USD"), is_primary=True)
        [(opened, is_new)] = await open_accounts(uow, [told], now=now)
    assert is_new
    assert opened != accounts["a"]
    await raise_user(synced, "a", Priority.MANUAL)
    await work(synced)
    assert (await synced.world.balance(opened)).posted == 1_000
    assert await synced.world.reader.primary_account(DEFAULT_TENANT, UserId("a")) == opened
