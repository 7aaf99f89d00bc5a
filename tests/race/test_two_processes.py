"""Several group commits on connections of their own, as several processes have: nothing twice, nothing lost."""

import asyncio
import random

from steelyard.core.errors import SteelyardError
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.ledger import errors
from steelyard.ledger.model import Posted
from tests.world import World

PROCESSES = 4


async def test_charges_race_for_the_last_money_and_never_overdraw(world: World) -> None:
    account = await world.open_account(100)
    processes = [world.another_process() for _ in range(PROCESSES)]
    attempts = [
        world.ledger(commit=processes[i % PROCESSES]).charge(account, 7) for i in range(120)
    ]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(o, Posted) for o in outcomes) == 14
    assert sum(isinstance(o, errors.InsufficientFunds) for o in outcomes) == 106
    steps = await world.changes(account)
    assert [step.seq for step in steps] == list(range(1, 16))
    assert [step.balance_after for step in steps] == [100 - 7 * i for i in range(15)]


async def test_one_key_used_everywhere_at_once_moves_money_once(world: World) -> None:
    account = await world.open_account(1000)
    processes = [world.another_process() for _ in range(PROCESSES)]
    for round_ in range(10):
        same = [
            world.ledger(commit=processes[i % PROCESSES]).charge(account, 5, key=f"k{round_}")
            for i in range(16)
        ]
        outcomes = await asyncio.gather(*same)
        assert {o.seq for o in outcomes} == {round_ + 2}
        assert sum(not o.replayed for o in outcomes) == 1
    assert (await world.balance(account)).posted == 950


async def test_one_key_on_many_accounts_at_once_is_taken_by_one(world: World) -> None:
    accounts = [await world.open_account(100) for _ in range(8)]
    processes = [world.another_process() for _ in range(PROCESSES)]
    for round_ in range(10):
        attempts = [
            world.ledger(commit=processes[i % PROCESSES]).charge(account, 1, key=f"k{round_}")
            for i, account in enumerate(accounts)
        ]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(o, Posted) for o in outcomes) == 1
        assert sum(isinstance(o, errors.IdempotencyConflict) for o in outcomes) == 7
    assert sum([(await world.balance(a)).posted for a in accounts]) == 790


async def test_transfers_in_circles_neither_deadlock_nor_lose_a_penny(world: World) -> None:
    accounts = [await world.open_account(200) for _ in range(6)]
    processes = [world.another_process() for _ in range(PROCESSES)]
    chance = random.Random(7)

    async def carry(number: int) -> list[Posted | SteelyardError]:
        ledger = world.ledger(commit=processes[number % PROCESSES])
        done: list[Posted | SteelyardError] = []
        for _ in range(25):
            source, to = chance.sample(accounts, 2)
            try:
                done.append(await ledger.transfer(source, to, chance.randint(1, 90)))
            except errors.InsufficientFunds as refused:
                done.append(refused)
        return done

    await asyncio.gather(*(carry(number) for number in range(12)))
    balances = [await world.balance(account) for account in accounts]
    assert sum(balance.posted for balance in balances) == 1200
    assert min(balance.posted for balance in balances) >= 0
    superuser = await world.as_superuser()
    assert await superuser.fetchval("SELECT sum(posted)::bigint FROM steelyard.account") == 0
    await superuser.close()


async def test_capture_and_release_race_and_one_of_them_wins(world: World) -> None:
    account = await world.open_account(1000)
    processes = [world.another_process() for _ in range(2)]
    captures = 0
    for _ in range(20):
        hold = (await world.ledger().hold(account, 10)).transaction
        outcomes = await asyncio.gather(
            world.ledger(commit=processes[0]).capture(hold),
            world.ledger(commit=processes[1]).release(hold),
            return_exceptions=True,
        )
        assert sum(isinstance(o, Posted) for o in outcomes) == 1
        captures += isinstance(outcomes[0], Posted)
    balance = await world.balance(account)
    assert (balance.posted, balance.held) == (1000 - 10 * captures, 0)


async def test_a_poisoned_order_fails_alone(world: World) -> None:
    account = await world.open_account(1000)
    superuser = await world.as_superuser()
    # A row that no rule allows: this one account's next change cannot be written.
    bad = await world.open_account(1000)
    await superuser.execute("SET session_replication_role = replica")
    await superuser.execute(
        "INSERT INTO steelyard.change SELECT tenant_id, account_id, 2, kind, amount, held_amount, balance_after, held_after, "
        "contra_id, contra_seq, target_seq, posted_at, details, xid, hash, previous_hash FROM steelyard.change WHERE account_id = $1",
        bad,
    )
    await superuser.close()
    good = [world.ledger(DEFAULT_TENANT).charge(account, 1) for _ in range(30)]
    outcomes = await asyncio.gather(*good, world.ledger().charge(bad, 1), return_exceptions=True)
    assert all(isinstance(o, Posted) for o in outcomes[:30])
    assert isinstance(outcomes[30], errors.LedgerFailure)
    assert (await world.balance(bad)).posted == 1000
