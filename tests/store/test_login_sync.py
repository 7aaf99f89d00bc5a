"""A login waits for its balance, but never longer than it may; nobody's sync runs twice at once."""

import asyncio

import asyncpg
import pytest

from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.providers.contract import Limits
from steelyard.providers.errors import ProviderTransient
from steelyard.sync.model import Reason, SyncResult
from steelyard.sync.raise_target import SyncRequest, raise_users
from steelyard.sync.status import load_status
from steelyard.sync.sync_with_timeout import LoginSync
from steelyard.sync.wait_for_runs import RunWaiter
from tests.sync_kit import BANK, SyncWorld, measuring_lag, open_sync_world, until, working
from tests.world import World

TIMEOUT_S = 2.0
GRACE_S = 0.1


@pytest.fixture
async def synced(world: World) -> SyncWorld:
    """A world with the bank."""
    return await open_sync_world(world)


async def log_in(logins: LoginSync, user: str) -> tuple[SyncResult, float]:
    """Log in; the answer and the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await logins.sync_with_timeout(DEFAULT_TENANT, UserId(user))
    return answer, loop.time() - began


async def test_a_login_gets_the_fresh_balance_of_its_primary_account(synced: SyncWorld) -> None:
    accounts = await synced.enroll(["a"], accounts_each=2, interval=None)
    synced.bank.money["a-0"] = 12_345
    waiter = RunWaiter(synced.database)
    logins = synced.logins(waiter=waiter)
    async with working(synced.worker(waiter=waiter)):
        answer, _ = await log_in(logins, "a")
    assert (answer.ok, answer.balance, answer.account) == (True, 12_345, accounts["a"])
    assert answer.as_of is not None
    assert (answer.reason, answer.queued) == (None, False)
    [run] = await synced.runs("a")
    assert (run["id"], run["state"]) == (answer.run_id, "completed")
    await waiter.close()


async def test_the_answer_comes_though_the_worker_is_another_process(synced: SyncWorld) -> None:
    await synced.enroll(["a"], interval=None)
    logins = synced.logins()
    async with working(synced.worker()):  # tells nobody here
        answer, _ = await log_in(logins, "a")
    assert (answer.ok, answer.balance) == (True, 1_000)


async def test_a_hanging_bank_costs_no_login_more_than_its_deadline_and_the_syncs_go_on(
    synced: SyncWorld,
) -> None:
    users = [f"u{i}" for i in range(60)]
    await synced.enroll(users, interval=None)
    await synced.allow(Limits(1000.0, 20))
    waiter = RunWaiter(synced.database)
    logins = synced.logins(waiter=waiter)
    first, *_ = users
    async with working(synced.worker(waiter=waiter)):
        assert (await log_in(logins, first))[0].ok
        synced.bank.release = asyncio.Event()
        synced.bank.money = dict.fromkeys(synced.bank.money, 555)
        async with measuring_lag() as lag:
            answers = await asyncio.gather(*(log_in(logins, user) for user in users))
        assert max(took for _, took in answers) <= TIMEOUT_S + GRACE_S + lag.most_s
        assert {(one.ok, one.reason, one.queued) for one, _ in answers} == {
            (False, Reason.TIMEOUT, True)
        }
        assert [one.balance for one, _ in answers] == [1_000] + [None] * 59
        await asyncio.sleep(0.2)  # those who gave up make way
        status = await load_status(synced.database, synced.clock)
        assert (status.priority, status.background, status.processing) == (0, 40, True)
        synced.bank.release.set()
        await synced.until_idle()
    assert [(await synced.world.balance(await _account(synced, u))).posted for u in users] == [
        555
    ] * 60
    assert synced.bank.most_in_flight == 1


async def _account(synced: SyncWorld, user: str) -> AccountId:
    async with synced.database.unit_of_work(DEFAULT_TENANT) as uow:
        found = await uow.fetchval(
            "SELECT account_id FROM steelyard.mirrored_account WHERE user_id = $1", user
        )
    return AccountId(found)


async def test_a_thousand_logins_at_once_are_few_questions_and_all_answered_in_time(
    synced: SyncWorld,
) -> None:
    users = [f"u{i}" for i in range(1_000)]
    await synced.enroll(users, interval=None)
    await synced.allow(Limits(1000.0, 20))
    synced.bank.release = asyncio.Event()
    waiter = RunWaiter(synced.database)
    logins = synced.logins(waiter=waiter)
    admin = await synced.world.as_superuser()
    now = synced.clock.now()
    await admin.execute("UPDATE steelyard.mirrored_account SET read_at = $1", now)
    async with working(synced.worker(waiter=waiter)):
        twice = [*users, *users[:50]]
        async with measuring_lag() as lag:
            answers = await asyncio.gather(*(log_in(logins, user) for user in twice))
        synced.bank.release.set()
        # They gave up, so they stand in the background, and are served at the bank's pace.
        await synced.until_idle()
    assert max(took for _, took in answers) <= TIMEOUT_S + GRACE_S + lag.most_s
    assert {(a.ok, a.balance, a.as_of, a.queued, a.reason) for a, _ in answers} == {
        (False, 0, now, True, Reason.TIMEOUT)
    }
    # Who came twice shares the run, unless the first one was in flight already.
    runs = {a.run_id for a, _ in answers}
    assert 1_000 <= len(runs) <= 1_050
    assert logins.raiser.batches <= 20
    states = await admin.fetch("SELECT state, count(*) AS runs FROM steelyard.run GROUP BY 1")
    await admin.close()
    assert {row["state"]: row["runs"] for row in states} == {"completed": len(runs)}
    assert synced.bank.most_in_flight == 1


async def test_a_bank_that_is_down_is_told_as_not_ok_and_never_raises(synced: SyncWorld) -> None:
    await synced.enroll(["a"], interval=None)
    synced.bank.error = ProviderTransient(provider=BANK, reason="connect")
    async with working(synced.worker()), measuring_lag() as lag:
        answer, took = await log_in(synced.logins(), "a")
    assert (answer.ok, answer.balance, answer.reason) == (False, None, Reason.TIMEOUT)
    assert took <= TIMEOUT_S + GRACE_S + lag.most_s


async def test_who_may_not_be_synced_is_answered_at_once_and_the_bank_is_not_asked(
    synced: SyncWorld,
) -> None:
    await synced.world.open_account(5, user="wallet")
    async with working(synced.worker()):
        for user, reason in (("wallet", Reason.WALLET), ("nobody", Reason.UNKNOWN_USER)):
            answer, _ = await log_in(synced.logins(), user)
            assert answer == SyncResult(ok=False, reason=reason)
    assert synced.bank.asked.total() == 0


async def test_a_user_with_more_accounts_than_a_sync_may_ask_for_stops_nobodys_login(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["many"], accounts_each=1_001, interval=None)
    await synced.enroll(["a"], interval=None)
    logins = synced.logins(timeout_s=0.5)
    answers = await asyncio.gather(*(log_in(logins, user) for user in ("many", "a")))
    assert [(one.reason, one.queued) for one, _ in answers] == [(Reason.TIMEOUT, True)] * 2
    assert (await synced.target("many"))["cost"] == 1_000


async def test_a_fault_while_logins_are_written_is_told_to_each_of_them(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a", "b"], interval=None)
    admin = await synced.world.as_superuser()
    await admin.execute(
        "ALTER TABLE steelyard.sync_target ADD CONSTRAINT spoiled CHECK (priority < 100) NOT VALID"
    )
    await admin.close()
    logins = synced.logins(timeout_s=5.0)
    answers = await asyncio.gather(
        *(log_in(logins, user) for user in ("a", "b")), return_exceptions=True
    )
    assert [type(one) for one in answers] == [asyncpg.CheckViolationError] * 2


async def test_a_database_that_hangs_does_not_hold_a_login_beyond_its_deadline(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"], interval=None)
    admin = await synced.world.as_superuser()
    blocker = admin.transaction()
    await blocker.start()
    await admin.execute("LOCK TABLE steelyard.sync_target")
    logins = synced.logins(timeout_s=0.5)
    async with measuring_lag() as lag:
        answer, took = await log_in(logins, "a")
    await blocker.rollback()
    await admin.close()
    await logins.close()
    assert (answer.ok, answer.reason) == (False, Reason.TIMEOUT)
    assert took <= 0.5 + GRACE_S + lag.most_s


async def test_a_login_is_ok_by_its_primary_account_though_another_one_cannot_be_read(
    synced: SyncWorld,
) -> None:
    accounts = await synced.enroll(["a"], accounts_each=2, interval=None)
    synced.bank.money["a-0"] = 12_345
    del synced.bank.money["a-1"]
    waiter = RunWaiter(synced.database)
    async with working(synced.worker(waiter=waiter)):
        for logins in (
            synced.logins(waiter=waiter),
            synced.logins(),
        ):  # of this process, of another
            answer, _ = await log_in(logins, "a")
            assert (answer.ok, answer.balance, answer.account, answer.reason) == (
                True,
                12_345,
                accounts["a"],
                None,
            )
    assert {run["state"] for run in await synced.runs("a")} == {"failed"}


async def test_a_login_is_answered_when_its_account_is_read_and_the_run_goes_on(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"], accounts_each=3, interval=None)
    await synced.allow(Limits(1.0, 10), burst=1)  # one now, the others in a second each
    logins = synced.logins()
    async with working(synced.worker(fetch_deadline_s=0.3)):
        answer, took = await log_in(logins, "a")
        assert (answer.ok, answer.balance, answer.queued) == (True, 1_000, True)
        assert took < TIMEOUT_S
        await synced.until_idle()
    [run] = await synced.runs("a")
    assert (run["id"], run["state"]) == (answer.run_id, "completed")
    assert synced.bank.asked == {"a-0": 1, "a-1": 1, "a-2": 1}


async def test_a_login_is_not_ok_when_its_account_was_not_read_though_its_run_goes_well(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a"], accounts_each=2, interval=None)
    del synced.bank.money["a-0"]
    async with working(synced.worker()):
        answer, _ = await log_in(synced.logins(), "a")
    assert (answer.ok, answer.balance, answer.reason) == (False, None, Reason.FAILED)
    assert synced.bank.asked["a-1"] > 0


async def test_tenants_whose_rows_are_locked_make_no_other_tenants_logins_wait(
    synced: SyncWorld,
) -> None:
    await synced.enroll(["a", "mine"], interval=None)
    locked = [TenantId(f"locked-{i}") for i in range(6)]
    for tenant in locked:
        await synced.world.make_tenant(tenant)
        await synced.enroll(["a"], tenant=tenant, interval=None)
    admin = await synced.world.as_superuser()
    now = synced.clock.now()
    await admin.execute("UPDATE steelyard.mirrored_account SET read_at = $1", now)
    for tenant in [*locked, DEFAULT_TENANT]:
        async with synced.database.unit_of_work(tenant) as uow:
            request = SyncRequest(UserId("a"), BANK)
            await raise_users(uow, [request], now=synced.clock.now())
    blocker = admin.transaction()
    await blocker.start()
    await admin.execute("SELECT 1 FROM steelyard.sync_target WHERE subject = 'a' FOR UPDATE")
    logins = synced.logins(timeout_s=1.0)

    async def log_in_at(tenant: TenantId) -> SyncResult:
        return await logins.sync_with_timeout(tenant, UserId("a"))

    async with measuring_lag() as lag, working(synced.worker()):
        waiting = [asyncio.create_task(log_in_at(one)) for one in (*locked, DEFAULT_TENANT)]
        await asyncio.sleep(0.1)
        answer, took = await log_in(logins, "mine")
        answers = await asyncio.gather(*waiting)
    await blocker.rollback()
    await admin.close()
    await logins.close()
    assert (answer.ok, answer.balance) == (True, 1_000)
    assert took <= 0.8 + lag.most_s
    assert {(one.ok, one.reason, one.as_of) for one in answers} == {(False, Reason.TIMEOUT, now)}


async def test_a_bank_that_hangs_gives_its_slots_back_and_logins_are_answered_meanwhile(
    synced: SyncWorld,
) -> None:
    users = [f"u{i}" for i in range(30)]
    await synced.enroll([*users, "late"], interval=None)
    await synced.allow(Limits(1000.0, 10))
    synced.bank.release = asyncio.Event()
    waiter = RunWaiter(synced.database)
    logins = synced.logins(waiter=waiter, timeout_s=0.5)
    async with working(synced.worker(waiter=waiter, request_s=1.0)), measuring_lag() as lag:
        await asyncio.gather(*(log_in(logins, user) for user in users))
        assert synced.bank.in_flight.total() == 10
        answer, took = await log_in(logins, "late")
        assert (answer.ok, answer.reason) == (False, Reason.TIMEOUT)
        assert took <= 0.5 + GRACE_S + lag.most_s
        assert synced.bank.in_flight.total() <= 10
        await until(lambda: synced.bank.in_flight.total() == 0)  # given up, and the circuit is open
        asked = synced.bank.asked.total()
        answer, took = await log_in(logins, "late")
        assert (answer.ok, answer.reason) == (False, Reason.TIMEOUT)
        assert synced.bank.asked.total() == asked
        synced.bank.release.set()
    await logins.close()
    await waiter.close()
