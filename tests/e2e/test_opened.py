"""`steelyard.open` inside a program: the same money, without a server."""

from pathlib import Path

import pytest

import steelyard
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import UserId
from steelyard.core.money import Money
from steelyard.ledger.errors import InsufficientFunds
from steelyard.mirror.model import NewMirroredAccount
from steelyard.opened import TenantServices
from steelyard.providers.contract import BalanceKind
from steelyard.providers.t24.simulator.faults import Fault
from steelyard.runtime.instance import start_instance
from steelyard.sync.enroll import Enrollment, enroll_accounts
from tests.e2e.providers.bank_kit import GBP, KEY, OVERDRAWN, opened
from tests.socket_kit import until
from tests.world import FreshDatabase


async def test_a_program_charges_and_proves(
    fresh: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEELYARD_DATABASE_URL", raising=False)
    async with steelyard.open(fresh.app_url) as s:
        account = await s.open_account("ann", "GBP", reference="ann-1")
        assert await s.open_account("ann", "GBP", reference="ann-1") == account
        await s.ledger.recharge(account, 1_000, key="r1")
        posted = await s.charge_service("ann", 400, "sms", "hello", reference_id="7", key="c1")
        again = await s.charge_service("ann", 400, "sms", "hello", reference_id="7", key="c1")
        assert (posted.balance_after, again.replayed) == (600, True)
        with pytest.raises(InsufficientFunds):
            await s.charge_service("ann", 601, "sms")
        assert (await s.balance(account)).posted == 600
        assert (await s.verify_and_fix_balance()).is_clean
        assert await s.get_balance_discrepancies() == []


async def test_tenants_are_apart(fresh: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEELYARD_DATABASE_URL", raising=False)
    async with steelyard.open(fresh.app_url) as s:
        acme = await s.create_tenant("acme")
        account = await acme.open_account("ann", "ZMW")
        await s.tenant("acme").ledger.recharge(account, 5)
        with pytest.raises(NotFound):
            await s.balance(account)
        with pytest.raises(InvalidInput):
            s.tenant("No Tenant")


async def test_without_an_address_it_starts_and_stops_its_own_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEELYARD_DATABASE_URL", raising=False)
    folder = tmp_path / "data"
    async with steelyard.open(data_dir=folder) as s:
        account = await s.open_account("ann", "GBP")
        await s.ledger.recharge(account, 7)
    assert not (folder / "postgres" / "postmaster.pid").exists()
    owner = await start_instance(folder, report=lambda _: None)
    try:
        async with steelyard.open(data_dir=folder) as s:
            assert (await s.balance(account)).posted == 7
    finally:
        await owner.stop()


async def enroll(s: TenantServices, user: str, *, status: str = "active") -> None:
    """Let a user have accounts at the bank."""
    await s.open_account(user, "GBP")
    services, now = s.services, s.services.clock.now()
    wanted = NewMirroredAccount(UserId(user), "t24", OVERDRAWN.number, GBP, is_primary=True)
    async with services.database.unit_of_work(s.tenant_id) as uow:
        await enroll_accounts(uow, [wanted], Enrollment("t24", None), now=now)
        await uow.execute("UPDATE steelyard.app_user SET status = $2 WHERE id = $1", user, status)


async def test_a_program_syncs_as_the_reference_does(
    fresh: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEELYARD_DATABASE_URL", raising=False)
    async with opened() as scene:
        assert scene.server is not None
        for name, value in (
            ("T24_API_URL", scene.server.url),
            ("T24_API_KEY", KEY),
            ("BALANCE_SYNC_INTERVAL", "0"),
            ("QUEUE_PROCESS_INTERVAL", "100"),
            ("AUTH_SYNC_TIMEOUT", "1000"),
        ):
            monkeypatch.setenv(name, value)
        async with steelyard.open(fresh.app_url) as s:
            acme = await s.create_tenant("acme")
            await enroll(acme, "ann")
            await enroll(acme, "gone", status="inactive")
            await s.open_account("wallet", "GBP")
            sync = acme.balance_sync

            # Nobody asked this process to work: what is asked for waits.
            waiting = await sync.sync_with_timeout("ann")
            assert (waiting.ok, waiting.balance, waiting.reason) == (False, None, "timeout")
            assert waiting.queued
            assert scene.bank.counts.requests == 0
            assert await sync.queue_sync("ann") is False

            sync.start()
            s.balance_sync.start()  # the same process: nothing more
            fresh_balance = await sync.sync_with_timeout("ann")
            available = scene.truth()[OVERDRAWN.number][BalanceKind.AVAILABLE]
            assert fresh_balance.ok
            assert (fresh_balance.balance, fresh_balance.currency) == ("-18.25", "GBP")
            assert fresh_balance.money == Money(available, GBP)
            assert fresh_balance.reason is None
            assert fresh_balance.run_id is not None

            asked = scene.bank.counts.requests
            for services, user, reason in (
                (acme, "nobody", "unknown_user"),
                (acme, "gone", "inactive"),
                (s, "wallet", "wallet"),
                (s, "ann", "unknown_user"),
            ):
                refused = await services.balance_sync.sync_with_timeout(user)
                assert (refused.ok, refused.queued, refused.reason) == (False, False, reason)
                assert await services.balance_sync.queue_sync(user) is False
            assert scene.bank.counts.requests == asked
            with pytest.raises(InvalidInput):
                await sync.sync_with_timeout("a\x00b")

            scene.fail(Fault.HANG)
            stored = await sync.sync_with_timeout("ann")
            assert (stored.ok, stored.reason, stored.queued) == (False, "timeout", True)
            assert (stored.balance, stored.as_of) == (fresh_balance.balance, fresh_balance.as_of)
            await scene.heal()

            await acme.balance_sync.stop()
            asked = scene.bank.counts.requests
            assert (await sync.sync_with_timeout("ann")).reason == "timeout"
            assert scene.bank.counts.requests == asked
            status = await sync.get_status()
            assert (status.priority + status.background, status.processing) == (1, False)
            sync.start()
            await until(lambda: scene.bank.counts.requests > asked)


async def test_a_program_without_a_core_bank_is_told_so(
    fresh: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEELYARD_DATABASE_URL", raising=False)
    async with steelyard.open(fresh.app_url) as s:
        s.balance_sync.start()
        answer = await s.balance_sync.sync_with_timeout("ann")
        assert (answer.ok, answer.queued, answer.reason) == (False, False, "sync_off")
        assert await s.balance_sync.queue_sync("ann") is False
        await s.balance_sync.stop()
