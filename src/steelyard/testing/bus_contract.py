"""What every bus promises: run each check of `BUS_CONTRACT` on a bus of yours.

for check in BUS_CONTRACT:
    await check(await make_buses())
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, TransactionId, UserId
from steelyard.runtime.bus import BalanceEvent, ChangeBus

HEARD_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class BusesUnderTest:
    """The bus of one process and that of another; the same object twice where a bus is one process's."""

    first: ChangeBus
    second: ChangeBus


BusCheck = Callable[[BusesUnderTest], Awaitable[None]]


def sample_step(
    seq: int, *, account: int = 1, tenant: str = DEFAULT_TENANT, currency: str = "GBP"
) -> BalanceEvent:
    """Return a committed charge of 1.50; its user is `user-<account>`."""
    place = AccountId(account)
    return BalanceEvent(
        event="balance_updated",
        tenant=TenantId(tenant),
        account=place,
        user=UserId(f"user-{account}"),
        currency=currency,
        seq=seq,
        kind="charge",
        amount=-150,
        posted=100_000 - 150 * seq,
        held=25,
        at=datetime.now(UTC),
        transaction=TransactionId(place, seq),
    )


def sample_refusal(*, account: int = 1, tenant: str = DEFAULT_TENANT) -> BalanceEvent:
    """Return a refused charge of 12.00 where 10.00 were available."""
    return BalanceEvent(
        event="balance_insufficient",
        tenant=TenantId(tenant),
        account=AccountId(account),
        user=UserId(f"user-{account}"),
        currency="GBP",
        seq=None,
        kind="charge",
        amount=0,
        posted=1_100,
        held=100,
        at=datetime.now(UTC),
        transaction=None,
        required=1_200,
    )


async def heard_all(heard: list[BalanceEvent], count: int) -> None:
    """Wait until `count` events were heard, and a moment longer for what should not come.

    Raises:
        TimeoutError: They did not come within 10 s.
    """
    async with asyncio.timeout(HEARD_DEADLINE_S):
        while len(heard) < count:  # noqa: ASYNC110 - listeners are plain functions
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)


async def check_both_hear_every_event_once_and_in_order(buses: BusesUnderTest) -> None:
    """Who publishes hears it too; nothing is told twice, changed or out of order."""
    mine: list[BalanceEvent] = []
    theirs: list[BalanceEvent] = []
    stops = [buses.first.subscribe(mine.append), buses.second.subscribe(theirs.append)]
    events = [sample_step(seq, account=1 + seq % 3) for seq in range(1, 101)]
    for event in events:
        buses.first.publish(event)
    await heard_all(theirs, len(events))
    assert mine == events
    assert theirs == events
    for stop in stops:
        stop()


async def check_refusals_and_tenants_arrive_as_they_were(buses: BusesUnderTest) -> None:
    """A refusal has no seq; another tenant's event is another tenant's; amounts are exact in every currency."""
    heard: list[BalanceEvent] = []
    stop = buses.second.subscribe(heard.append)
    events = [
        sample_refusal(),
        sample_refusal(tenant="other"),
        sample_step(3, tenant="other"),
        sample_step(4, account=2, currency="JPY"),
        sample_step(2**40, account=3, currency="KWD"),
    ]
    for event in events:
        buses.first.publish(event)
    await heard_all(heard, len(events))
    assert heard == events
    stop()


async def check_a_listener_that_raises_silences_nobody(buses: BusesUnderTest) -> None:
    """Publishing does not raise, and the others hear."""
    heard: list[BalanceEvent] = []

    def raising(event: BalanceEvent) -> None:
        raise ValueError(event.seq)

    stops = [buses.second.subscribe(raising), buses.second.subscribe(heard.append)]
    for seq in (1, 2):
        buses.first.publish(sample_step(seq))
    await heard_all(heard, 2)
    assert [event.seq for event in heard] == [1, 2]
    for stop in stops:
        stop()


async def check_who_has_stopped_hears_no_more(buses: BusesUnderTest) -> None:
    """Stopping twice is no error."""
    before: list[BalanceEvent] = []
    heard: list[BalanceEvent] = []
    stop, stop_other = buses.second.subscribe(before.append), buses.second.subscribe(heard.append)
    buses.first.publish(sample_step(1))
    await heard_all(heard, 1)
    stop()
    stop()
    buses.first.publish(sample_step(2))
    await heard_all(heard, 2)
    assert [event.seq for event in before] == [1]
    stop_other()


BUS_CONTRACT: tuple[BusCheck, ...] = (
    check_both_hear_every_event_once_and_in_order,
    check_refusals_and_tenants_arrive_as_they_were,
    check_a_listener_that_raises_silences_nobody,
    check_who_has_stopped_hears_no_more,
)
