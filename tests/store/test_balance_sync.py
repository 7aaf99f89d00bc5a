"""The reference's nine promises, on the real database with real concurrency.

The names are those of `reference/prepaid-balance-guarantees.md`, "Comprehensive Tests".
"""

import asyncio
from itertools import pairwise

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.core.ids import AccountId, UserId
from steelyard.ledger.errors import AccountSuspended, InsufficientFunds
from steelyard.ledger.model import Details
from steelyard.reconcile.model import Fault
from tests.store.reconcile_kit import reconcile_of, tampering
from tests.world import World


async def numbers(world: World, account: AccountId) -> tuple[int, int, int]:
    """Posted and both totals, as stored."""
    async with world.database.unit_of_work(world.ledger().tenant) as uow:
        row = await uow.fetchrow(
            "SELECT posted, total_recharged, total_spent FROM steelyard.account WHERE id = $1",
            account,
        )
    assert row is not None
    return row["posted"], row["total_recharged"], row["total_spent"]


async def written(world: World) -> tuple[int, int, int]:
    """How many changes, requests and holds there are."""
    async with tampering(world) as connection:
        row = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM change), (SELECT count(*) FROM operation), (SELECT count(*) FROM hold)"
        )
    assert row is not None
    return row[0], row[1], row[2]


async def test_single_charge_updates_both_tables_atomically(world: World) -> None:
    account = await world.open_account(100_000)
    posted = await world.ledger().charge(account, 30_000, about=Details(description="vps"))
    assert await numbers(world, account) == (70_000, 100_000, 30_000)
    [_, charge] = await world.changes(account)
    assert (charge.amount, charge.balance_after, charge.seq) == (-30_000, 70_000, posted.seq)
    assert (await reconcile_of(world).verify()).is_clean


async def test_insufficient_balance_throws_exception_no_partial_data(world: World) -> None:
    account = await world.open_account(50_000)
    before = await written(world)
    with pytest.raises(InsufficientFunds):
        await world.ledger().charge(account, 50_001)
    assert await numbers(world, account) == (50_000, 50_000, 0)
    assert await written(world) == before
    assert (await reconcile_of(world).verify()).is_clean


@pytest.mark.parametrize("processes", [1, 3])
async def test_concurrent_charges_handled_correctly(world: World, processes: int) -> None:
    account = await world.open_account(100_000)
    commits = [world.commit, *(world.another_process() for _ in range(processes - 1))]
    ledgers = [world.ledger(commit=commit) for commit in commits]
    outcomes = await asyncio.gather(
        *(ledgers[n % processes].charge(account, 1_000 + n) for n in range(60))
    )
    taken = sum(1_000 + n for n in range(60))
    assert sorted(one.seq for one in outcomes) == list(range(2, 62))
    assert await numbers(world, account) == (100_000 - taken, 100_000, taken)
    assert sum(change.amount for change in await world.changes(account)) == 100_000 - taken
    assert (await reconcile_of(world).verify()).is_clean


@pytest.mark.parametrize("processes", [1, 3])
async def test_concurrent_charges_dont_overdraw(world: World, processes: int) -> None:
    account = await world.open_account(100_000)
    commits = [world.commit, *(world.another_process() for _ in range(processes - 1))]
    ledgers = [world.ledger(commit=commit) for commit in commits]
    outcomes = await asyncio.gather(
        *(ledgers[n % processes].charge(account, 30_000) for n in range(40)), return_exceptions=True
    )
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert [type(one) for one in refused] == [InsufficientFunds] * 37
    assert await numbers(world, account) == (10_000, 100_000, 90_000)
    assert all(change.balance_after >= 0 for change in await world.changes(account))
    assert (await reconcile_of(world).verify()).is_clean


async def test_verify_sync_detects_mismatches(world: World) -> None:
    account, other = await world.open_account(450_000, user="5"), await world.open_account(1)
    await world.balance(account)
    async with tampering(world) as connection:
        await connection.execute("UPDATE account SET posted = 500000 WHERE id = $1", account)
    found = await reconcile_of(world).verify()
    assert (found.checked, found.synced, found.fixed) == (2, 1, 0)
    [balance, book] = found.details
    assert (balance.fault, balance.account, balance.user) == (Fault.BALANCE, account, "5")
    assert (balance.stored, balance.actual, balance.difference) == (500_000, 450_000, 50_000)
    assert (book.fault, book.difference) == (Fault.BOOK, 50_000)
    assert (await numbers(world, account))[0] == 500_000  # a report changes nothing

    fixed = await reconcile_of(world).verify_and_fix()
    assert (fixed.checked, fixed.synced, fixed.fixed, fixed.errors) == (2, 1, 1, [])
    assert (await numbers(world, account))[0] == 450_000
    assert (await numbers(world, other))[0] == 1
    assert world.heard.events[-1].account == account
    assert (world.heard.events[-1].amount, world.heard.events[-1].posted) == (-50_000, 450_000)
    async with tampering(world) as connection:
        [audited] = await connection.fetch("SELECT * FROM audit WHERE action = 'reconcile.fix'")
    assert (audited["target"], audited["outcome"], audited["actor"]) == (
        str(account),
        "fixed",
        "system:reconcile",
    )
    assert '"posted": 500000' in audited["details"]
    assert '"posted": 450000' in audited["details"]


async def test_transaction_balance_before_after_values_correct(world: World) -> None:
    account, other = await world.open_account(100_000), await world.open_account(0)
    ledger = world.ledger()
    charged = await ledger.charge(account, 10_000)
    hold = await ledger.hold(account, 20_000)
    await ledger.capture(hold.transaction, 15_000)
    await ledger.reverse(charged.transaction)
    await ledger.transfer(account, other, 5_000)
    changes = await world.changes(account)
    assert changes[0].balance_after == 100_000
    for before, after in pairwise(changes):
        assert after.balance_after == before.balance_after + after.amount
        assert after.held_after == before.held_after + after.held_amount
    assert (changes[-1].balance_after, changes[-1].held_after) == (80_000, 0)
    assert (await numbers(world, account)) == (80_000, 100_000, 15_000)


async def test_recharge_updates_both_tables_correctly(world: World) -> None:
    account = await world.open_account()
    await world.ledger().recharge(account, 250_000)
    [change] = await world.changes(account)
    assert (change.kind, change.amount, change.balance_after) == ("recharge", 250_000, 250_000)
    assert await numbers(world, account) == (250_000, 250_000, 0)


async def test_rebuild_all_balances_from_transactions(world: World) -> None:
    accounts = [await world.open_account(10_000) for _ in range(5)]
    for n, account in enumerate(accounts):
        await world.ledger().charge(account, 1_000 + n)
        await world.ledger().hold(account, 100)
    before = [await numbers(world, account) for account in accounts]
    async with tampering(world) as connection:
        await connection.execute(
            "UPDATE account SET posted = 77, held = 7, total_recharged = 0, total_spent = 9, seq = 99, "
            "head = sha256('x') WHERE id = ANY($1) ",
            accounts[:1],
        )
        await connection.execute(
            "UPDATE account SET posted = 77, held = 7, total_recharged = 0, total_spent = 9 WHERE id = ANY($1)",
            accounts[1:],
        )
        await connection.execute(
            "UPDATE hold SET status = 'released' WHERE account_id = $1", accounts[2]
        )
    steps: list[tuple[int, int]] = []
    rebuilt = await reconcile_of(world).rebuild_all(
        progress=lambda step, done, total: steps.append((done, total))
    )
    assert steps == [(8, 8)]
    # The first one's head and number of steps were both lost: that its changes end where they should is not proved.
    assert {one.account for one in rebuilt.errors if one.account} == {accounts[0]}
    assert [await numbers(world, account) for account in accounts[1:]] == before[1:]
    assert (await world.balance(accounts[1])).held == 100
    with pytest.raises(AccountSuspended):
        await world.ledger().charge(accounts[0], 1)
    again = await reconcile_of(world).rebuild_all()
    assert again.touched == []


async def test_transaction_rollback_on_error(world: World) -> None:
    account = await world.open_account(10_000)
    before = await written(world)
    async with tampering(world) as connection:
        await connection.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk on fire'; END $$;"
            "CREATE TRIGGER fail AFTER INSERT ON change FOR EACH ROW WHEN (NEW.amount = -13) EXECUTE FUNCTION fail()"
        )
    with pytest.raises(SteelyardError, match="nothing was written"):
        await world.ledger().charge(account, 13)
    assert await written(world) == before
    assert await numbers(world, account) == (10_000, 10_000, 0)
    assert (await world.ledger().charge(account, 14)).balance_after == 9_986
    assert (await reconcile_of(world).verify()).is_clean


async def test_get_discrepancy_report(world: World) -> None:
    accounts = [await world.open_account(10_000, user=f"u{n}") for n in range(4)]
    async with tampering(world) as connection:
        for account, stored in zip(accounts, (10_005, 9_000, 10_000, 60_000), strict=True):
            await connection.execute(
                "UPDATE account SET posted = $2 WHERE id = $1", account, stored
            )
    found = [
        one
        for one in await reconcile_of(world).get_balance_discrepancies()
        if one.fault is Fault.BALANCE
    ]
    assert [(one.user, one.difference) for one in found] == [
        (UserId("u3"), 50_000),
        (UserId("u1"), -1_000),
        (UserId("u0"), 5),
    ]
