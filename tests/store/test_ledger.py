"""What the ledger promises, one operation at a time, on the real database."""

import asyncio
from datetime import timedelta

import pytest

from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, TransactionId
from steelyard.ledger import errors
from steelyard.ledger.model import Details, Kind, Order
from steelyard.ledger.post_in import post_in
from steelyard.ledger.sweep_holds import HoldSweeper
from tests.world import World


async def standing(world: World, account: AccountId) -> tuple[int, int, int]:
    """Posted, held and seq."""
    balance = await world.balance(account)
    return balance.posted, balance.held, balance.seq


async def test_charge_takes_the_amount_and_counts_one_step(world: World) -> None:
    account = await world.open_account(1000)
    posted = await world.ledger().charge(account, 300, about=Details(description="tea"))
    assert (posted.balance_after, posted.seq, posted.amount, posted.replayed) == (
        700,
        2,
        -300,
        False,
    )
    assert await standing(world, account) == (700, 0, 2)
    [recharge, charge] = await world.changes(account)
    assert (recharge.kind, charge.kind, charge.details) == (
        "recharge",
        "charge",
        '{"description":"tea"}',
    )


async def test_refused_charge_leaves_balance_changes_keys_and_seq_unchanged(world: World) -> None:
    account = await world.open_account(100)
    with pytest.raises(errors.InsufficientFunds) as refused:
        await world.ledger().charge(account, 101, key="k")
    assert refused.value.fields() == {
        "account": str(account),
        "required": 101,
        "current": 100,
        "shortfall": 1,
        "currency": "GBP",
    }
    assert await standing(world, account) == (100, 0, 1)
    assert len(await world.changes(account)) == 1
    # A refusal is not stored: with money there, the same key goes through.
    await world.ledger().recharge(account, 1)
    assert (await world.ledger().charge(account, 101, key="k")).balance_after == 0


async def test_same_key_answers_the_first_outcome_and_moves_nothing(world: World) -> None:
    account = await world.open_account(1000)
    first = await world.ledger().charge(account, 10, key="once")
    await world.ledger().charge(account, 5)
    again = await world.ledger().charge(account, 10, key="once")
    assert (again.seq, again.balance_after, again.posted_at) == (
        first.seq,
        first.balance_after,
        first.posted_at,
    )
    assert again.replayed
    assert await standing(world, account) == (985, 0, 3)


async def test_same_key_with_another_order_is_a_conflict(world: World) -> None:
    account, other = await world.open_account(1000), await world.open_account(1000)
    await world.ledger().charge(account, 10, key="once")
    for order in (
        world.ledger().charge(account, 11, key="once"),
        world.ledger().charge(other, 10, key="once"),
        world.ledger().recharge(account, 10, key="once"),
        world.ledger().charge(account, 10, key="once", about=Details(description="x")),
    ):
        with pytest.raises(errors.IdempotencyConflict):
            await order
    assert await standing(world, account) == (990, 0, 2)
    assert await standing(world, other) == (1000, 0, 1)


async def test_keys_are_the_tenants_own(world: World) -> None:
    acme = TenantId("acme")
    await world.make_tenant(acme)
    mine, theirs = await world.open_account(100), await world.open_account(100, tenant=acme)
    assert not (await world.ledger().charge(mine, 1, key="k")).replayed
    assert not (await world.ledger(acme).charge(theirs, 1, key="k")).replayed


async def test_foreign_account_is_not_found_and_not_touched(world: World) -> None:
    acme = TenantId("acme")
    await world.make_tenant(acme)
    account = await world.open_account(100)
    for attempt in (world.ledger(acme).charge(account, 1), world.ledger(acme).recharge(account, 1)):
        with pytest.raises(NotFound):
            await attempt
    theirs = await world.open_account(100, tenant=acme)
    with pytest.raises(NotFound):
        await world.ledger(acme).transfer(theirs, account, 1)
    assert await standing(world, account) == (100, 0, 1)


async def test_batch_of_many_tenants_keeps_them_apart(world: World) -> None:
    tenants = [TenantId(f"t{i}") for i in range(8)]
    accounts = []
    for tenant in tenants:
        await world.make_tenant(tenant)
        accounts.append(await world.open_account(100, tenant=tenant))
    own = [world.ledger(t).charge(a, 1) for t, a in zip(tenants, accounts, strict=True)]
    swapped = [
        world.ledger(t).charge(a, 1)
        for t, a in zip(tenants, [*accounts[1:], accounts[0]], strict=True)
    ]
    outcomes = await asyncio.gather(*own, *swapped, return_exceptions=True)
    assert all(not isinstance(o, BaseException) for o in outcomes[:8])
    assert all(isinstance(o, NotFound) for o in outcomes[8:])
    assert world.commit.counts.largest_batch >= 16
    for tenant, account in zip(tenants, accounts, strict=True):
        assert (await world.balance(account, tenant)).posted == 99


async def test_hold_capture_release_and_expiry_keep_available_exact(world: World) -> None:
    account = await world.open_account(100)
    ledger = world.ledger()
    first = await ledger.hold(account, 60)
    assert await standing(world, account) == (100, 60, 2)
    with pytest.raises(errors.InsufficientFunds):
        await ledger.charge(account, 41)
    with pytest.raises(errors.CaptureExceedsHold):
        await ledger.capture(first.transaction, 61)
    captured = await ledger.capture(first.transaction, 50)
    assert (captured.balance_after, captured.held_after) == (50, 0)
    for again in (ledger.capture(first.transaction), ledger.release(first.transaction)):
        with pytest.raises(errors.HoldNotOpen):
            await again
    second = await ledger.hold(account, 20)
    assert (await ledger.release(second.transaction)).available_after == 50
    with pytest.raises(NotFound):
        await ledger.capture(TransactionId(account, 999))


async def test_sweeper_gives_back_a_due_hold_once_and_leaves_others(world: World) -> None:
    account = await world.open_account(100)
    await world.ledger().hold(account, 10, expires_in=timedelta(seconds=1))
    await world.ledger().hold(account, 20, expires_in=timedelta(hours=1))
    await world.ledger().hold(account, 30)
    sweeper = HoldSweeper(world.database, world.commit, world.clock)
    assert await sweeper.sweep() == 0
    await asyncio.sleep(1.1)
    assert sum(await asyncio.gather(sweeper.sweep(), sweeper.sweep())) == 1
    assert await standing(world, account) == (100, 50, 5)


async def test_charge_may_use_a_hold_only_after_it_is_swept(world: World) -> None:
    account = await world.open_account(100)
    hold = await world.ledger().hold(account, 100, expires_in=timedelta(seconds=1))
    await asyncio.sleep(1.1)
    with pytest.raises(errors.InsufficientFunds):
        await world.ledger().charge(account, 1)
    assert (await world.ledger().capture(hold.transaction)).balance_after == 0


async def test_reversal_comes_in_parts_up_to_the_whole_and_never_more(world: World) -> None:
    account = await world.open_account(100)
    ledger = world.ledger()
    charge = (await ledger.charge(account, 60)).transaction
    await ledger.reverse(charge, 20)
    with pytest.raises(errors.ReversalExceedsTransaction):
        await ledger.reverse(charge, 41)
    rest = await ledger.reverse(charge)
    assert (rest.amount, rest.balance_after) == (40, 100)
    with pytest.raises(errors.AlreadyReversed):
        await ledger.reverse(charge, 1)
    with pytest.raises(errors.NotReversible):
        await ledger.reverse(rest.transaction)


async def test_many_reversals_at_once_take_back_the_whole_once(world: World) -> None:
    account = await world.open_account(100)
    charge = (await world.ledger().charge(account, 50)).transaction
    processes = [world.commit, world.another_process()]
    attempts = [world.ledger(commit=processes[i % 2]).reverse(charge, 10) for i in range(40)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(not isinstance(o, BaseException) for o in outcomes) == 5
    assert await standing(world, account) == (100, 0, 7)


async def test_reversal_of_spent_money_is_refused_unless_forced_which_suspends(
    world: World,
) -> None:
    account = await world.open_account()
    ledger = world.ledger()
    recharge = (await ledger.recharge(account, 100)).transaction
    await ledger.charge(account, 70)
    with pytest.raises(errors.InsufficientFunds):
        await ledger.reverse(recharge)
    forced = await ledger.reverse(recharge, forced=True)
    assert forced.balance_after == -70
    with pytest.raises(errors.AccountSuspended):
        await ledger.charge(account, 1)
    with pytest.raises(errors.AccountSuspended):
        await ledger.hold(account, 1)
    await ledger.recharge(account, 69)
    with pytest.raises(errors.AccountSuspended):
        await ledger.charge(account, 1)
    await ledger.recharge(account, 1)
    assert (await world.balance(account)).suspended is None


async def test_transfer_moves_between_two_accounts_and_its_reversal_moves_back(
    world: World,
) -> None:
    a, b = await world.open_account(100), await world.open_account(5)
    sent = await world.ledger().transfer(a, b, 30)
    assert (await standing(world, a), await standing(world, b)) == ((70, 0, 2), (35, 0, 2))
    received = (await world.changes(b))[-1]
    assert received.transaction == sent.transaction
    await world.ledger().charge(b, 10)
    with pytest.raises(errors.InsufficientFunds) as short:
        await world.ledger().reverse(sent.transaction)
    assert short.value.account == b
    await world.ledger().reverse(sent.transaction, 25)
    assert (await standing(world, a), await standing(world, b)) == ((95, 0, 3), (0, 0, 4))


async def test_transfers_between_currencies_or_to_oneself_are_refused(world: World) -> None:
    await world.make_tenant(DEFAULT_TENANT, "JPY")
    a, yen = await world.open_account(100), await world.open_account(100, currency="JPY")
    with pytest.raises(errors.CurrencyMismatch):
        await world.ledger().transfer(a, yen, 1)
    with pytest.raises(errors.SameAccount):
        await world.ledger().transfer(a, a, 1)


@pytest.mark.parametrize("amount", [0, -1, 2**53, 2**62])
async def test_impossible_amounts_are_refused(world: World, amount: int) -> None:
    account = await world.open_account(100)
    with pytest.raises(InvalidInput):
        await world.ledger().charge(account, amount)
    with pytest.raises(InvalidInput):
        await world.ledger().recharge(account, amount)
    assert await standing(world, account) == (100, 0, 1)


async def test_balance_never_leaves_the_range_every_client_reads(world: World) -> None:
    account = await world.open_account(2**53 - 1)
    with pytest.raises(errors.BalanceLimit):
        await world.ledger().recharge(account, 1)
    assert await standing(world, account) == (2**53 - 1, 0, 1)


async def test_topup_is_paid_once_and_never_by_its_requester(world: World) -> None:
    account = await world.open_account()
    ledger = world.ledger()
    topup = await ledger.request_topup(account, 500, by="alice")
    assert await standing(world, account) == (0, 0, 0)
    with pytest.raises(errors.RequesterCannotApprove):
        await ledger.process_topup(topup.id, approve=True, by="alice")
    outcomes = await asyncio.gather(
        *(ledger.process_topup(topup.id, approve=True, by="bob") for _ in range(5))
    )
    assert sum(posted is not None for _, posted in outcomes) == 1
    assert await standing(world, account) == (500, 0, 1)
    with pytest.raises(errors.TopupAlreadyProcessed):
        await ledger.process_topup(topup.id, approve=False, by="bob")


async def test_a_refused_topup_moves_nothing_and_is_told_once(world: World) -> None:
    account = await world.open_account(100)
    ledger = world.ledger()
    topup = await ledger.request_topup(account, 500, by="alice")
    world.heard.events.clear()
    await asyncio.gather(
        *(ledger.process_topup(topup.id, approve=False, by="bob") for _ in range(3))
    )
    (told,) = world.heard.events
    assert (told.event, told.kind, told.seq, told.amount) == (
        "transaction_failed",
        "topup",
        None,
        0,
    )
    assert (told.account, told.user, told.reference) == (account, topup.user, topup.id)
    assert (told.posted, told.held) == (100, 0)
    assert await standing(world, account) == (100, 0, 1)


async def test_charge_in_the_callers_own_transaction_lives_and_dies_with_it(world: World) -> None:
    account = await world.open_account(100)
    order = Order(DEFAULT_TENANT, Kind.CHARGE, account, 30, key="own")
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        await post_in(uow.connection, order, now=world.clock.now())
        await uow.execute("SAVEPOINT later")
        with pytest.raises(errors.InsufficientFunds):
            await post_in(
                uow.connection,
                Order(uow.tenant, Kind.CHARGE, account, 71, key="x"),
                now=world.clock.now(),
            )
    assert await standing(world, account) == (70, 0, 2)
    with pytest.raises(ZeroDivisionError):
        await charge_and_fail(world, account, key="y")
    assert await standing(world, account) == (70, 0, 2)
    assert not (await world.ledger().charge(account, 1, key="y")).replayed


async def charge_and_fail(world: World, account: AccountId, *, key: str) -> None:
    """Charge in a transaction of one's own that fails afterwards."""
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        order = Order(uow.tenant, Kind.CHARGE, account, 1, key=key)
        await post_in(uow.connection, order, now=world.clock.now())
        raise ZeroDivisionError


async def test_account_locked_by_somebody_stops_nobody_else(world: World) -> None:
    locked, free = await world.open_account(100), await world.open_account(100)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        await post_in(
            uow.connection,
            Order(uow.tenant, Kind.CHARGE, locked, 1, key="mine"),
            now=world.clock.now(),
        )
        waiting = asyncio.create_task(world.ledger().charge(locked, 1))
        done = await asyncio.gather(*(world.ledger().charge(free, 1) for _ in range(20)))
        assert len(done) == 20
        assert not waiting.done()
    assert (await waiting).balance_after == 98


async def test_every_step_is_heard_once_and_in_order(world: World) -> None:
    account = await world.open_account(1000)
    await asyncio.gather(*(world.ledger().charge(account, 1) for _ in range(50)))
    steps = [event for event in world.heard.events if event.account == account]
    assert [event.seq for event in steps] == list(range(1, 52))
    assert [event.available for event in steps] == [1000, *range(999, 949, -1)]


async def test_books_sum_to_zero_after_everything(world: World) -> None:
    a, b = await world.open_account(1000), await world.open_account(1000)
    ledger = world.ledger()
    await asyncio.gather(
        ledger.charge(a, 5), ledger.transfer(a, b, 7), ledger.refund(b, 3), ledger.adjust(a, -2)
    )
    superuser = await world.as_superuser()
    assert await superuser.fetchval("SELECT sum(posted)::bigint FROM steelyard.account") == 0
    assert await superuser.fetchval("SELECT sum(amount)::bigint FROM steelyard.change") == 0
    await superuser.close()
