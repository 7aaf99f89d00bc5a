"""Random falsifications behind the product's back: each is found, what can be proved is healed, the rest quarantined.

Clean accounts are charged all the while, and none of them is ever named.
"""

import asyncio
from dataclasses import dataclass
from random import Random

import pytest

from steelyard.core.ids import DEFAULT_TENANT, AccountId
from steelyard.ledger.errors import AccountSuspended
from steelyard.ledger.model import Details
from steelyard.reconcile.model import Discrepancy, Fault
from tests.store.corruptions import CORRUPTIONS, Corruption, Fate
from tests.store.reconcile_kit import open_many_accounts, reconcile_of, tampering
from tests.world import World

SEED = 20_261_121


@dataclass(frozen=True)
class Falsified:
    """An account with what was done to it, and its row before and after that."""

    account: AccountId
    what: Corruption
    before: dict[str, object]
    after: dict[str, object]


async def make_history(world: World, accounts: list[AccountId], random: Random) -> None:
    """Give each account recharges, charges, holds in every state, a reversal and a transfer."""
    ledger = world.ledger()

    async def live(account: AccountId) -> None:
        await ledger.recharge(account, 100_000)
        charged = [
            await ledger.charge(
                account, random.randint(200, 900), about=Details(description=f"lunch {n}")
            )
            for n in range(3)
        ]
        held = [await ledger.hold(account, random.randint(200, 900)) for _ in range(3)]
        await ledger.capture(held[0].transaction, 150)
        await ledger.release(held[1].transaction)
        await ledger.reverse(charged[random.randrange(3)].transaction)
        other = accounts[(accounts.index(account) + 1) % len(accounts)]
        await ledger.transfer(account, other, random.randint(1, 100))

    for begin in range(0, len(accounts), 100):
        await asyncio.gather(*(live(account) for account in accounts[begin : begin + 100]))


async def rows(world: World, accounts: list[AccountId]) -> dict[AccountId, dict[str, object]]:
    """The account rows as stored, without the moment."""
    async with tampering(world) as connection:
        found = await connection.fetch("SELECT * FROM account WHERE id = ANY($1)", accounts)
    return {
        row["id"]: {key: value for key, value in row.items() if key != "as_of"} for row in found
    }


async def falsify(
    world: World, accounts: list[AccountId], acts: list[Corruption], random: Random
) -> list[Falsified]:
    """Do one corruption to each account."""
    before = await rows(world, accounts)
    async with tampering(world) as connection:
        for account, corruption in zip(accounts, acts, strict=True):
            async with connection.transaction():
                await corruption.act(connection, account, random)
    after = await rows(world, accounts)
    return [
        Falsified(account, corruption, before[account], after[account])
        for account, corruption in zip(accounts, acts, strict=True)
    ]


async def keep_charging(world: World, accounts: list[AccountId], stop: asyncio.Event) -> int:
    """Charge clean accounts until told to stop. Returns how often."""
    ledger, done = world.ledger(), 0
    while not stop.is_set():
        page = [accounts[(done + n) % len(accounts)] for n in range(20)]
        await asyncio.gather(*(ledger.charge(account, 1) for account in page))
        done += len(page)
        await asyncio.sleep(0.005)
    return done


def of_accounts(found: list[Discrepancy]) -> dict[AccountId, set[Fault]]:
    """The faults named for each account."""
    named: dict[AccountId, set[Fault]] = {}
    for one in found:
        if one.account is not None:
            named.setdefault(one.account, set()).add(one.fault)
    return named


async def check_round(world: World, falsified: list[Falsified], clean: list[AccountId]) -> None:
    """Verify, fix and verify once more while charges go on; then look at every falsified account."""
    earlier = await quarantined(world)
    stop = asyncio.Event()
    charging = asyncio.create_task(keep_charging(world, clean, stop))
    try:
        reconcile = reconcile_of(world)
        seen = of_accounts((await reconcile.verify()).details)
        missed = [one.what.name for one in falsified if one.account not in seen]
        assert missed == []
        report = await reconcile.verify_and_fix()
        remaining = of_accounts((await reconcile.verify()).details)
    finally:
        stop.set()
        assert await charging > 0
    broken = {one.account for one in falsified if one.what.fate is Fate.QUARANTINED}
    ours = {one.account for one in falsified}
    assert seen.keys() - earlier == ours, "a clean account was named"
    names = {one.account: one.what.name for one in falsified}
    assert [names[one] for one in remaining.keys() - earlier - broken] == [], "not healed"
    assert [names[one] for one in broken - remaining.keys()] == [], "not quarantined"
    assert {one.account for one in report.touched} == ours
    now = await rows(world, list(ours))
    for one in falsified:
        if one.what.fate is Fate.HEALED:
            assert now[one.account] == one.before, one.what.name
        else:
            assert now[one.account] == one.after | {"suspended": "chain_broken"}, one.what.name


async def quarantined(world: World) -> set[AccountId]:
    """Accounts that earlier rounds left in quarantine."""
    async with tampering(world) as connection:
        found = await connection.fetch("SELECT id FROM account WHERE suspended = 'chain_broken'")
    return {AccountId(row["id"]) for row in found}


async def run_rounds(world: World, *, rounds: int, each: int, clean: int) -> None:
    """Falsify `each` accounts in each of `rounds` rounds, among `clean` others."""
    random = Random(SEED)
    victims = await open_many_accounts(world, rounds * each)
    await make_history(world, victims, random)
    untouched = await open_many_accounts(world, clean, balance=1_000_000)
    assert (await reconcile_of(world).verify_incremental()).is_clean
    drawn = [CORRUPTIONS[n % len(CORRUPTIONS)] for n in range(rounds * each)]
    random.shuffle(drawn)
    random.shuffle(victims)
    for begin in range(0, rounds * each, each):
        ours = victims[begin : begin + each]
        falsified = await falsify(world, ours, drawn[begin : begin + each], random)
        await check_round(world, falsified, untouched[:500])
    broken = next(one for one in falsified if one.what.fate is Fate.QUARANTINED)
    with pytest.raises(AccountSuspended):
        await world.ledger().charge(broken.account, 1)


async def test_every_corruption_is_found_and_only_what_is_proved_is_healed(world: World) -> None:
    await run_rounds(world, rounds=3, each=50, clean=1_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_a_thousand_corruptions_among_a_hundred_thousand_clean_accounts(world: World) -> None:
    await run_rounds(world, rounds=10, each=100, clean=100_000)


async def test_books_own_account_is_proved_and_healed_too(world: World) -> None:
    await world.open_account(10_000)
    async with tampering(world) as connection:
        await connection.execute(
            "UPDATE account SET posted = posted + 5 WHERE kind = 'system' AND posted <> 0"
        )
    report = await reconcile_of(world).verify_and_fix()
    assert {one.fault for one in report.details} == {Fault.BALANCE, Fault.BOOK}
    assert report.errors == []


async def test_changes_of_an_account_that_does_not_exist_are_reported(world: World) -> None:
    account = await world.open_account(10_000)
    async with tampering(world) as connection:
        await connection.execute(
            "INSERT INTO change SELECT tenant_id, 999999, seq, kind, amount, held_amount, balance_after, held_after, "
            "contra_id, contra_seq, target_seq, posted_at, details, xid, hash, previous_hash FROM change WHERE account_id = $1",
            account,
        )
    report = await reconcile_of(world).verify_and_fix()
    assert [(one.fault, one.account) for one in report.errors] == [(Fault.ORPHAN, 999_999)]


async def test_cached_balance_that_differs_is_found_and_dropped(world: World) -> None:
    from steelyard.runtime.cache import CachedBalance

    account = await world.open_account(10_000)
    await world.cache.forget(DEFAULT_TENANT, [account])
    world.cache.set_if_newer(DEFAULT_TENANT, account, CachedBalance(10_001, 2, 1))
    report = await reconcile_of(world).verify_and_fix()
    [found] = report.details
    assert (found.fault, found.stored, found.actual, report.errors) == (
        Fault.CACHE,
        10_001,
        10_000,
        [],
    )
    assert (await world.balance(account)).available == 10_000


async def test_quarantine_never_ends_by_itself(world: World) -> None:
    account = await world.open_account(10_000)
    await world.ledger().charge(account, 10)
    async with tampering(world) as connection:
        kept = await connection.fetchval(
            "SELECT hash FROM change WHERE account_id = $1 AND seq = 1", account
        )
        await connection.execute(
            "UPDATE change SET hash = '' WHERE account_id = $1 AND seq = 1", account
        )
        await reconcile_of(world).verify_and_fix()
        await connection.execute(
            "UPDATE change SET hash = $2 WHERE account_id = $1 AND seq = 1", account, kept
        )
    assert (await reconcile_of(world).verify_and_fix()).errors == []
    assert (await world.balance(account)).suspended == "chain_broken"
    await world.ledger().recharge(account, 5)  # recharges pass
    assert (await world.balance(account)).suspended == "chain_broken"
