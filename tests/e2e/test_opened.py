"""`steelyard.open` inside a program: the same money, without a server."""

from pathlib import Path

import pytest

import steelyard
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.ledger.errors import InsufficientFunds
from steelyard.runtime.instance import start_instance
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
