"""Operators pause, resume and cancel; and every second and minute somebody puts right what was left behind."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from steelyard.access.model import Principal, Role, system_principal
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import DEFAULT_TENANT, TenantId, UserId
from steelyard.providers.contract import Limits
from steelyard.providers.errors import ProviderTransient
from steelyard.sync.control_sync import ControlOrder, cancel_sync, pause_sync, resume_sync
from steelyard.sync.describe_sync import Viewer
from steelyard.sync.enroll import allow_requests
from steelyard.sync.model import Circuit, Priority, Reason, SyncResult
from steelyard.sync.raise_target import SyncRequest, raise_users
from steelyard.sync.recover import lower_unwaited
from steelyard.sync.status import load_status
from steelyard.sync.tend_targets import TargetTender
from steelyard.testing.clock import FrozenClock
from tests.sync_kit import BANK, INTERVAL, SyncWorld, open_sync_world, until, working
from tests.world import World

OPERATOR = Principal(DEFAULT_TENANT, "olga", Role.OPERATOR, UserId("olga"))


@pytest.fixture
async def synced(world: World) -> SyncWorld:
    """A world with the bank, in which time stands still."""
    return await open_sync_world(world, FrozenClock())


def let_pass(synced: SyncWorld, seconds: float) -> None:
    """Move the world's clock."""
    assert isinstance(synced.clock, FrozenClock)
    synced.clock.move(timedelta(seconds=seconds))


async def ask(
    synced: SyncWorld,
    user: str,
    priority: Priority = Priority.MANUAL,
    *,
    until_s: float | None = None,
) -> int | Reason:
    """Ask for a sync; the run, or why there is none."""
    now = synced.clock.now()
    waited = None if until_s is None else now + timedelta(seconds=until_s)
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        request = SyncRequest(UserId(user), BANK, priority, waited_until=waited)
        [raised] = await raise_users(uow, [request], now=now)
    return raised.run if raised.run is not None else raised.reason or Reason.FAILED


async def log_in(synced: SyncWorld, user: str) -> SyncResult:
    """Log in while nobody works."""
    logins = synced.logins(timeout_s=0.2)
    answer = await logins.sync_with_timeout(DEFAULT_TENANT, UserId(user))
    await logins.close()
    return answer


async def pause(synced: SyncWorld, user: str | None = None, reason: str | None = "audit") -> bool:
    """Pause one user, or all."""
    order = ControlOrder(BANK, None if user is None else UserId(user), reason)
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        return await pause_sync(uow, OPERATOR, order, now=synced.clock.now())


async def resume(synced: SyncWorld, user: str | None = None) -> bool:
    """Resume one user, or all."""
    order = ControlOrder(BANK, None if user is None else UserId(user))
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        return await resume_sync(uow, OPERATOR, order, now=synced.clock.now())


async def cancel(synced: SyncWorld, user: str) -> int:
    """Cancel what a user's syncs are at."""
    order = ControlOrder(BANK, UserId(user), "by hand")
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        now = synced.clock.now()
        return await cancel_sync(uow, OPERATOR, order, interval=INTERVAL, now=now)


async def audited(synced: SyncWorld) -> list[tuple[str, str, str, str]]:
    """Who did what to whom with what outcome, oldest first."""
    admin = await synced.world.as_superuser()
    rows = await admin.fetch(
        "SELECT actor, action, target, outcome FROM steelyard.audit ORDER BY id"
    )
    await admin.close()
    return [tuple(row) for row in rows]


async def work(synced: SyncWorld) -> None:
    """Let a worker do what is due now."""
    worker = synced.worker()
    await worker.turn()
    await worker.drain()


def viewer(synced: SyncWorld) -> Viewer:
    """Sees what operators see."""
    return Viewer(synced.database, synced.clock, INTERVAL)


# --- pausing -----------------------------------------------------------------------------------


async def test_a_paused_user_is_not_asked_for_until_resumed_and_others_are(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a", "b"])
    await synced.make_due()
    assert [await pause(synced, "a") for _ in range(2)] == [True, False]
    assert await ask(synced, "a", Priority.LOGIN) is Reason.PAUSED
    await work(synced)
    assert synced.bank.asked == {"b-0": 1}
    [one] = await viewer(synced).sources([BANK])
    assert (one.paused_users, one.pause) == (1, None)
    seen = await viewer(synced).user(DEFAULT_TENANT, UserId("a"), BANK)
    assert seen.reason is Reason.PAUSED
    assert seen.target is not None
    assert seen.target.pause is not None
    assert (seen.target.pause.by, seen.target.pause.reason) == ("olga", "audit")
    assert [await resume(synced, "a") for _ in range(2)] == [True, False]
    await work(synced)
    assert synced.bank.asked == {"a-0": 1, "b-0": 1}
    assert await audited(synced) == [
        ("olga", "sync.pause", "user:a", "done"),
        ("olga", "sync.pause", "user:a", "unchanged"),
        ("olga", "sync.resume", "user:a", "done"),
        ("olga", "sync.resume", "user:a", "unchanged"),
    ]


async def test_a_paused_source_grants_nothing_and_logins_get_the_stored_balance_at_once(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"])
    await ask(synced, "a")
    await work(synced)
    synced.bank.money["a-0"] = 5
    waiting = await ask(synced, "a")
    await pause(synced)
    await work(synced)
    assert synced.bank.asked.total() == 1
    answer = await log_in(synced, "a")
    assert (answer.ok, answer.reason, answer.queued, answer.balance) == (
        False,
        Reason.PAUSED,
        False,
        1_000,
    )
    [one] = await viewer(synced).sources([BANK])
    assert one.pause is not None
    assert (one.pause.by, one.pause.reason, one.pause.at) == ("olga", "audit", synced.clock.now())
    seen = await viewer(synced).user(DEFAULT_TENANT, UserId("a"), BANK)
    assert seen.reason is Reason.PAUSED
    await resume(synced)
    await work(synced)
    assert [run["id"] for run in await synced.runs("a")][-1] == waiting
    assert (await log_in(synced, "a")).balance == 5


async def test_a_pause_of_one_user_outlives_that_of_the_source(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    await pause(synced, "a")
    await pause(synced)
    await resume(synced)
    await synced.make_due()
    await work(synced)
    assert synced.bank.asked.total() == 0


async def test_limits_that_are_set_again_end_no_pause(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    await pause(synced)
    await synced.allow(Limits(77.0, 7))
    await ask(synced, "a")
    await synced.make_due()
    await work(synced)
    assert synced.bank.asked.total() == 0


async def test_what_is_not_there_cannot_be_paused_and_a_bad_reason_is_refused(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"])
    for user in ("nobody", "olga"):
        with pytest.raises(NotFound):
            await pause(synced, user)
        with pytest.raises(NotFound):
            await cancel(synced, user)
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        order = ControlOrder("nowhere")
        with pytest.raises(NotFound):
            await pause_sync(uow, OPERATOR, order, now=synced.clock.now())
    for reason in ("", "x" * 201, "two\nlines"):
        with pytest.raises(InvalidInput):
            await pause(synced, "a", reason)
    assert (await synced.target("a"))["is_paused"] is False
    assert await audited(synced) == []


# --- cancelling --------------------------------------------------------------------------------


async def test_a_queued_run_that_is_cancelled_is_never_begun(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    run = await ask(synced, "a", Priority.LOGIN)
    assert [await cancel(synced, "a") for _ in range(2)] == [1, 0]
    await work(synced)
    assert synced.bank.asked.total() == 0
    [told] = await synced.runs("a")
    assert (told["id"], told["state"], told["finished_at"]) == (
        run,
        "cancelled",
        synced.clock.now(),
    )
    assert json.loads(str(told["error"]))["code"] == "cancelled"
    target = await synced.target("a")
    due = target["due_at"]
    assert isinstance(due, datetime)
    assert INTERVAL / 2 <= due - synced.clock.now() <= INTERVAL
    assert (target["priority"], target["run_id"], target["waited_until"]) == (0, None, None)
    assert [one[1:] for one in await audited(synced)] == [
        ("sync.cancel", "user:a", "done"),
        ("sync.cancel", "user:a", "unchanged"),
    ]


async def test_a_run_cancelled_in_flight_writes_nothing_and_nobody_asks_beside_it(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"])
    await ask(synced, "a")
    synced.bank.release = asyncio.Event()
    worker = synced.worker()
    await worker.turn()
    await until(lambda: synced.bank.in_flight["a-0"])
    await ask(synced, "a")  # and once more after it
    assert await cancel(synced, "a") == 2
    assert {run["state"] for run in await synced.runs("a")} == {"cancelled"}
    later = await ask(synced, "a", Priority.LOGIN)
    await worker.turn()
    assert synced.bank.asked == {"a-0": 1}
    assert (await load_status(synced.database, synced.clock)).processing
    held, synced.bank.release = synced.bank.release, None
    synced.bank.money["a-0"] = 7
    held.set()
    await worker.drain()
    assert (await synced.world.balance(accounts["a"])).seq == 0
    assert (await synced.target("a"))["lease_until"] is None
    await worker.turn()  # the cancelled one ended: the login is served at once
    await worker.drain()
    assert (await synced.world.balance(accounts["a"])).posted == 7
    assert [run["state"] for run in await synced.runs("a") if run["id"] == later] == ["completed"]
    assert synced.bank.most_in_flight == 1


async def test_a_cancelled_target_rests_though_its_attempt_would_be_tried_again(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"])
    await ask(synced, "a")
    synced.bank.release = asyncio.Event()
    synced.bank.error = ProviderTransient(provider=BANK, reason="status_503")
    worker = synced.worker()
    await worker.turn()
    await cancel(synced, "a")
    synced.bank.release.set()
    await worker.drain()
    due = (await synced.target("a"))["due_at"]
    assert isinstance(due, datetime)
    assert due - synced.clock.now() >= INTERVAL * 0.9
    assert [run["state"] for run in await synced.runs("a")] == ["cancelled"]


async def test_a_cancelled_lease_is_given_back_when_its_worker_stops(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    await ask(synced, "a")
    synced.bank.release = asyncio.Event()
    worker = synced.worker()
    await worker.turn()
    await cancel(synced, "a")
    await worker.abandon()
    target = await synced.target("a")
    assert (target["lease_until"], target["cancelled_token"]) == (None, None)


async def test_a_login_whose_run_is_cancelled_hears_of_it_at_once(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    logins = synced.logins(timeout_s=10)
    waiting = asyncio.create_task(logins.sync_with_timeout(DEFAULT_TENANT, UserId("a")))
    async with asyncio.timeout(5):
        while True:
            if await synced.runs("a"):
                break
    await cancel(synced, "a")
    async with asyncio.timeout(5):
        answer = await waiting
    assert (answer.ok, answer.reason, answer.queued) == (False, Reason.CANCELLED, False)
    await logins.close()


# --- waited for --------------------------------------------------------------------------------


async def test_a_target_makes_way_only_when_nobody_waits_for_it_any_more(synced: SyncWorld) -> None:
    await synced.enroll(["a", "urgent"])
    await ask(synced, "a", Priority.LOGIN, until_s=1)
    await ask(synced, "a", Priority.LOGIN, until_s=2)  # on another server
    await ask(synced, "urgent", Priority.URGENT)
    await ask(synced, "urgent", Priority.LOGIN, until_s=1)
    let_pass(synced, 1)
    assert await lower_unwaited(synced.database, synced.clock) == 1
    assert (await synced.target("a"))["priority"] == Priority.LOGIN
    assert (await synced.target("urgent"))["priority"] == Priority.URGENT
    let_pass(synced, 1)
    assert await lower_unwaited(synced.database, synced.clock) == 1
    assert (await synced.target("a"))["priority"] == Priority.WAITED
    assert await lower_unwaited(synced.database, synced.clock) == 0


async def test_a_login_during_a_sync_makes_way_too_when_it_gave_up(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    await ask(synced, "a", Priority.MANUAL)
    [lease] = (await synced.lease()).leases
    await ask(synced, "a", Priority.LOGIN, until_s=1)
    await ask(synced, "a", Priority.MANUAL)
    let_pass(synced, 1)
    assert await lower_unwaited(synced.database, synced.clock) == 1
    target = await synced.target("a")
    assert (target["priority"], target["again_priority"]) == (30, 30)
    assert lease.priority == 30


# --- what is put right -------------------------------------------------------------------------


def tender(synced: SyncWorld, interval: timedelta | None = INTERVAL) -> TargetTender:
    """Puts right what rests."""
    return TargetTender(synced.database, synced.clock, [BANK], interval)


async def set_status(synced: SyncWorld, users: Sequence[str], status: str) -> None:
    """Make users active or not, as the slice that keeps them does."""
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        await uow.execute(
            "UPDATE steelyard.app_user SET status = $2 WHERE tenant_id = 'default' AND id = ANY ($1)",
            list(users),
            status,
        )


async def test_a_user_made_active_again_is_synced_again_by_itself(synced: SyncWorld) -> None:
    await synced.enroll(["a", "b"])
    await set_status(synced, ["a", "b"], "inactive")
    await synced.make_due()
    await work(synced)
    assert await synced.target("a") == {}
    assert await tender(synced).tend() == (0, 0)
    await set_status(synced, ["a"], "active")
    assert await tender(synced).tend() == (1, 0)
    assert await tender(synced).tend() == (0, 0)
    due = (await synced.target("a"))["due_at"]
    assert isinstance(due, datetime)
    assert timedelta(0) <= due - synced.clock.now() <= INTERVAL
    assert await synced.target("b") == {}
    let_pass(synced, INTERVAL.total_seconds())
    await work(synced)
    assert synced.bank.asked == {"a-0": 1}


async def test_targets_that_never_came_by_themselves_come_again_when_the_period_is_set(
    synced: SyncWorld,
) -> None:
    users = [f"u{i}" for i in range(1_500)]
    await synced.enroll(users, interval=None)
    await ask(synced, "u0", Priority.MANUAL)
    assert await tender(synced, None).tend() == (0, 0)
    assert await tender(synced).tend() == (0, 1_499)
    assert await tender(synced).tend() == (0, 0)
    admin = await synced.world.as_superuser()
    spread = await admin.fetch(
        "SELECT width_bucket(extract(epoch FROM due_at - $1), 0, 300, 5) AS fifth, count(*) AS due "
        "FROM steelyard.sync_target WHERE run_id IS NULL GROUP BY 1 ORDER BY 1",
        synced.clock.now(),
    )
    await admin.close()
    assert [row["fifth"] for row in spread] == [1, 2, 3, 4, 5]
    assert all(240 <= row["due"] <= 360 for row in spread)


async def test_targets_planned_by_activity_are_left_where_they_are(synced: SyncWorld) -> None:
    await synced.allow(Limits(1.0, 10))  # bears 240 targets in 5 minutes
    await synced.enroll([f"u{i}" for i in range(300)])
    admin = await synced.world.as_superuser()
    tomorrow = synced.clock.now() + timedelta(hours=25)
    await admin.execute("UPDATE steelyard.sync_target SET due_at = $1", tomorrow)
    assert await tender(synced).tend() == (0, 0)
    await admin.execute(
        "UPDATE steelyard.sync_target SET due_at = $1", tomorrow + timedelta(days=1)
    )
    await admin.close()
    assert await tender(synced).tend() == (0, 300)


# --- tenants beside each other -----------------------------------------------------------------


async def test_sources_take_turns_when_slots_are_short_and_logins_come_first(
    synced: SyncWorld,
) -> None:
    tenants = [TenantId(f"t{i}") for i in range(4)]
    for tenant in tenants:
        await synced.world.make_tenant(tenant)
        async with synced.database.unit_of_work(tenant) as uow:
            before = synced.clock.now() - timedelta(hours=1)
            await allow_requests(uow, BANK, Limits(1_000.0, 100), now=before)
        await synced.enroll([f"{tenant}-{i}" for i in range(12)], tenant=tenant)
    await synced.make_due()
    async with synced.database.unit_of_work(tenants[3]) as uow:
        request = SyncRequest(UserId("t3-0"), BANK, Priority.LOGIN)
        await raise_users(uow, [request], now=synced.clock.now())
    worker = synced.worker(slots=20)
    for turns in range(1, 5):
        synced.bank.release = asyncio.Event()
        await worker.turn()
        if turns == 1:
            assert "t3-0" in {lease.subject for lease in worker._under_way.values()}
        counts = Counter(lease.tenant for lease in worker._under_way.values())
        assert max(counts.values()) - min(counts.values()) <= 1
        synced.bank.release.set()
        await worker.drain()
    served = [
        sum(n for name, n in synced.bank.asked.items() if name.startswith(t)) for t in tenants
    ]
    assert served == [12, 12, 12, 12]


async def test_one_source_never_takes_every_slot(synced: SyncWorld) -> None:
    await synced.enroll([f"u{i}" for i in range(40)])
    await synced.make_due()
    synced.bank.release = asyncio.Event()
    worker = synced.worker(slots=16)
    for _ in range(5):
        await worker.turn()
    assert worker.busy == 8  # twelve at most, of them what is kept for logins
    for i in range(10):
        await ask(synced, f"u{i + 20}", Priority.LOGIN)
    for _ in range(5):
        await worker.turn()
    assert worker.busy == 12
    synced.bank.release.set()
    await worker.drain()


async def test_a_worker_whose_slots_are_taken_looks_again_only_when_one_comes_back(
    synced: SyncWorld,
) -> None:
    other = TenantId("other")
    await synced.world.make_tenant(other)
    async with synced.database.unit_of_work(other) as uow:
        before = synced.clock.now() - timedelta(hours=1)
        await allow_requests(uow, BANK, Limits(1_000.0, 3), now=before)
    await synced.enroll([f"u{i}" for i in range(40)])
    await synced.enroll([f"o{i}" for i in range(40)], tenant=other)
    for i in range(40):
        await ask(synced, f"u{i}", Priority.LOGIN)
    await synced.make_due()
    synced.bank.release = asyncio.Event()
    worker = synced.worker(slots=20)
    for _ in range(6):
        worker._wake.clear()
        await worker.turn()
    assert not worker._wake.is_set()  # nothing it could do: it does not spin
    assert worker.busy == 17  # fifteen logins of one source, and two that left eight to logins
    async with working(worker):
        synced.bank.release.set()
        await until(lambda: synced.bank.asked.total() >= 40)
    await worker.abandon()


async def test_what_cannot_be_written_is_cut_out_of_its_batch_and_tried_until_its_lease_ends(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll([f"u{i}" for i in range(8)])
    await synced.make_due()
    admin = await synced.world.as_superuser()
    worker = synced.worker()
    for is_freed in (True, False):
        blocker = admin.transaction()
        await blocker.start()
        await admin.execute(
            "SELECT 1 FROM steelyard.account WHERE id = $1 FOR UPDATE", accounts["u3"]
        )
        await worker.turn()
        drained = asyncio.create_task(worker.drain())
        await until(lambda: worker.busy == 1)
        if not is_freed:
            let_pass(synced, 60)
            await drained
        await blocker.rollback()
        await drained
        assert (worker.lost, worker.late) == (0, 0 if is_freed else 1)
        await synced.make_due()
        synced.bank.money = dict.fromkeys(synced.bank.money, 2_000)
    await admin.close()
    read = {user: (await synced.world.balance(one)).seq for user, one in accounts.items()}
    assert read == {user: 1 if user == "u3" else 2 for user in accounts}


async def test_a_locked_budget_delays_no_other_tenant(synced: SyncWorld) -> None:
    other = TenantId("other")
    await synced.world.make_tenant(other)
    async with synced.database.unit_of_work(other) as uow:
        before = synced.clock.now() - timedelta(hours=1)
        await allow_requests(uow, BANK, Limits(1_000.0, 100), now=before)
    await synced.enroll(["mine"])
    await synced.enroll(["theirs"], tenant=other)
    await synced.make_due()
    admin = await synced.world.as_superuser()
    blocker = admin.transaction()
    await blocker.start()
    await admin.execute(
        "SELECT 1 FROM steelyard.provider_budget WHERE tenant_id = 'default' FOR UPDATE"
    )
    worker = synced.worker()
    async with asyncio.timeout(5):
        for _ in range(3):
            await worker.turn()
    await worker.drain()
    assert synced.bank.asked == {"theirs-0": 1}
    await blocker.rollback()
    await admin.close()
    await worker.turn()
    await worker.drain()
    assert synced.bank.asked == {"theirs-0": 1, "mine-0": 1}


async def test_a_worker_that_stops_gives_its_leases_back_at_once(synced: SyncWorld) -> None:
    accounts = await synced.enroll(["a", "b"])
    run = await ask(synced, "a", Priority.LOGIN)
    await ask(synced, "b")
    synced.bank.release = asyncio.Event()
    doomed = synced.worker(name="doomed")
    await doomed.turn()
    await until(lambda: synced.bank.in_flight.total() == 2)
    await doomed.abandon()
    assert synced.bank.in_flight.total() == 0
    assert not (await load_status(synced.database, synced.clock)).processing
    synced.bank.release = None
    await work(synced)
    assert (await synced.world.balance(accounts["a"])).posted == 1_000
    [told] = await synced.runs("a")
    assert (told["id"], told["state"]) == (run, "completed")
    assert (await synced.target("a"))["attempts"] == 0


# --- what is seen ------------------------------------------------------------------------------


async def test_operators_see_what_is_due_and_how_long_it_waits_by_tier(synced: SyncWorld) -> None:
    await synced.enroll([f"u{i}" for i in range(6)])
    admin = await synced.world.as_superuser()
    now = synced.clock.now()
    await admin.execute(
        "UPDATE steelyard.sync_target SET due_at = $1::timestamptz - interval '1 min' * substr(subject, 2)::int",
        now,
    )
    await admin.execute(
        "UPDATE steelyard.sync_target SET last_login_at = $1 WHERE subject = 'u1'", now
    )
    await admin.execute(
        "UPDATE steelyard.sync_target SET last_login_at = $1::timestamptz - interval '2 h' WHERE subject = 'u2'",
        now,
    )
    await admin.close()
    await ask(synced, "u5", Priority.LOGIN)
    await ask(synced, "u4", Priority.MANUAL)
    [one] = await viewer(synced).sources([BANK])
    assert {t.tier: (t.due, (now - t.oldest_due_at).total_seconds()) for t in one.tiers} == {
        "login": (1, 300.0),
        "asked": (1, 240.0),
        "active": (1, 60.0),
        "today": (1, 120.0),
        "rest": (2, 180.0),
    }
    assert (one.in_flight, one.budget.circuit, one.is_tiered) == (0, Circuit.CLOSED, False)
    assert await viewer(synced).sources([BANK], tenant=TenantId("other")) == []


async def test_everything_of_a_user_is_told_with_what_to_do(synced: SyncWorld) -> None:
    accounts = await synced.enroll(["a"])
    await ask(synced, "a")
    await work(synced)
    read_at = synced.clock.now()
    let_pass(synced, 60)
    await ask(synced, "a")
    await work(synced)
    synced.bank.error = ProviderTransient(provider=BANK, reason="status_503")
    let_pass(synced, 60)
    await ask(synced, "a")
    await work(synced)
    seen = await viewer(synced).user(DEFAULT_TENANT, UserId("a"), BANK)
    [account] = seen.accounts
    assert (account.account, account.balance, account.is_primary) == (accounts["a"], 1_000, True)
    assert (account.as_of, account.read_at) == (read_at, read_at + timedelta(seconds=60))
    assert [run.state for run in seen.runs] == ["retrying", "completed", "completed"]
    assert (seen.runs[0].error_code, seen.reason) == ("provider_transient", None)
    assert seen.target is not None
    assert seen.target.due_at == synced.clock.now() + timedelta(seconds=1)
    with pytest.raises(NotFound):
        await viewer(synced).user(DEFAULT_TENANT, UserId("nobody"), BANK)


async def test_the_system_may_act_as_well(synced: SyncWorld) -> None:
    await synced.enroll(["a"])
    order = ControlOrder(BANK, UserId("a"))
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        actor = system_principal(DEFAULT_TENANT, "cli")
        assert await pause_sync(uow, actor, order, now=synced.clock.now())
    assert (await audited(synced))[0][0] == "system:cli"
