"""The relay says what the fast path did not, and loses nothing to late commits."""

import asyncio

from steelyard.core.ids import DEFAULT_TENANT
from steelyard.ledger.model import Kind, Order
from steelyard.ledger.post_in import post_in
from steelyard.runtime.bus import BalanceEvent, InProcessBus
from steelyard.runtime.relay import Relay
from tests.world import World


def relay_on(world: World, heard: list[BalanceEvent], *, name: str | None = None) -> Relay:
    """A relay with a bus of its own, as in a process that committed nothing itself."""
    bus = InProcessBus()
    bus.subscribe(heard.append)
    return Relay(world.database, bus, world.clock, name)


async def test_everything_committed_elsewhere_is_heard_once_and_in_order(world: World) -> None:
    heard: list[BalanceEvent] = []
    relay = relay_on(world, heard)
    await relay.run_once()
    accounts = [await world.open_account(1000) for _ in range(5)]
    processes = [world.commit, world.another_process(), world.another_process()]

    async def charges(number: int) -> None:
        ledger = world.ledger(commit=processes[number % 3])
        for step in range(20):
            await ledger.charge(accounts[(number + step) % 5], 1)

    running = [asyncio.create_task(charges(number)) for number in range(9)]
    while not all(task.done() for task in running):
        await relay.run_once()
        await asyncio.sleep(0.005)
    await asyncio.gather(*running)
    await relay.run_once()
    await relay.run_once()
    for account in accounts:
        seqs = [event.seq for event in heard if event.account == account]
        assert seqs == list(range(1, (await world.balance(account)).seq + 1))


async def test_a_late_commit_is_not_skipped(world: World) -> None:
    slow, quick = await world.open_account(100), await world.open_account(100)
    heard: list[BalanceEvent] = []
    relay = relay_on(world, heard)
    await relay.run_once()
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        order = Order(DEFAULT_TENANT, Kind.CHARGE, slow, 1, key="late")
        await post_in(uow.connection, order, now=world.clock.now())
        for _ in range(10):
            await world.ledger().charge(quick, 1)
        await relay.run_once()
        assert [
            event.account for event in heard
        ] == []  # the horizon waits for the open transaction
    await relay.run_once()
    assert sum(event.account == slow for event in heard) == 1
    assert [event.seq for event in heard if event.account == quick] == list(range(2, 12))


async def test_what_the_fast_path_said_is_not_said_again(world: World) -> None:
    relay = Relay(world.database, world.bus, world.clock)
    world.bus.subscribe(relay.confirm)
    await relay.run_once()
    account = await world.open_account(100)
    await world.ledger().charge(account, 1)
    await asyncio.sleep(0.01)
    await relay.run_once()
    assert [event.seq for event in world.heard.events if event.account == account] == [1, 2]
    assert relay.confirmed_before == 2


async def test_a_named_relay_goes_on_where_it_was(world: World) -> None:
    first: list[BalanceEvent] = []
    await relay_on(world, first, name="bus").run_once()
    account = await world.open_account(100)
    relay = relay_on(world, first, name="bus")
    await relay.run_once()
    await world.ledger().charge(account, 1)  # and the process dies here
    later: list[BalanceEvent] = []
    await relay_on(world, later, name="bus").run_once()
    assert [event.seq for event in first] == [1]
    assert [event.seq for event in later] == [2]


async def test_both_sides_of_a_transfer_name_the_same_transaction(world: World) -> None:
    a, b = await world.open_account(100), await world.open_account(0)
    heard: list[BalanceEvent] = []
    relay = relay_on(world, heard)
    await relay.run_once()
    sent = await world.ledger().transfer(a, b, 5)
    await relay.run_once()
    assert {(event.account, event.transaction) for event in heard} == {
        (a, sent.transaction),
        (b, sent.transaction),
    }


async def test_what_another_process_tells_within_a_turn_is_not_said_again(world: World) -> None:
    heard: list[BalanceEvent] = []
    bus = InProcessBus()
    bus.subscribe(heard.append)
    relay = Relay(world.database, bus, world.clock, waits_a_turn=True)
    bus.subscribe(relay.confirm)
    await relay.run_once()
    told, untold = await world.open_account(100), await world.open_account(100)
    await relay.run_once()
    assert heard == []
    [hint] = [event for event in world.heard.events if event.account == told]
    bus.publish_foreign(hint)
    await relay.run_once()
    assert [event.account for event in heard] == [told, untold]
    assert relay.published == 1


async def test_a_relay_that_waits_keeps_only_a_position_before_which_all_has_been_told(
    world: World,
) -> None:
    heard: list[BalanceEvent] = []
    bus, has_left = InProcessBus(), False
    bus.subscribe(heard.append)

    def relay() -> Relay:
        return Relay(
            world.database,
            bus,
            world.clock,
            "bus",
            waits_a_turn=True,
            is_told_since=lambda _: has_left,
        )

    first = relay()
    await first.run_once()
    await world.open_account(100)
    for _ in range(3):
        await first.run_once()
    assert len(heard) == 1
    second = relay()  # the first was killed before the event had left its process
    for _ in range(2):
        await second.run_once()
    assert [event.seq for event in heard] == [1, 1]
    has_left = True
    for _ in range(3):
        await second.run_once()
    third = relay()
    for _ in range(2):
        await third.run_once()
    assert [event.seq for event in heard] == [1, 1]


async def test_a_position_beyond_the_horizon_is_not_believed(world: World) -> None:
    heard: list[BalanceEvent] = []
    await world.database.fetch(
        "INSERT INTO steelyard.relay_position (name, xid) VALUES ('bus', '900000000000'::xid8)"
    )
    relay = relay_on(world, heard, name="bus")  # as in a database restored to another server
    await relay.run_once()
    await world.open_account(100)
    await relay.run_once()
    assert len(heard) == 1
