"""Readings become balances: one change per account whose balance is another, none where it is the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from steelyard.balances import store as balances
from steelyard.core.errors import InvalidInput
from steelyard.core.money import LARGEST_MINOR
from steelyard.mirror.model import ShownBalance
from steelyard.runtime.bus import BalanceEvent, ChangeBus
from steelyard.runtime.cache import BalanceCache, CachedBalance
from steelyard.runtime.change_rows import event_of_change
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import UnitOfWork


async def apply_readings(
    uow: UnitOfWork, readings: Sequence[ShownBalance], *, now: datetime
) -> list[BalanceEvent]:
    """Make what was read the balance of mirrored accounts, repeatably.

    Locks the accounts in id order until `uow` ends. A change is of kind `sync`, its amount the difference; it
    names no transaction. An unchanged reading writes no change. The caller sees to it that no older
    reading comes after a newer one; the clock they were read by is not asked.

    Returns:
        One event per change, to be published after the commit.
    Raises:
        InvalidInput: An amount is beyond 2^53 - 1 minor units; nothing was written.
    """
    for reading in readings:
        if abs(reading.minor) > LARGEST_MINOR:
            raise InvalidInput(field="amount", problem="it is beyond 2^53 - 1 minor units")
    if not readings:
        return []
    rows = [
        (r.account, r.minor, r.read_at, msgspec.json.encode(r.kinds).decode()) for r in readings
    ]
    return [event_of_change(row) for row in await balances.mirror_balances(uow, rows, now=now)]


@dataclass(frozen=True, slots=True)
class PublishReadings:
    """Tells cache and bus of committed readings: the fast path; may be lost, the relay makes up for it."""

    bus: ChangeBus
    cache: BalanceCache

    def __call__(self, events: Sequence[BalanceEvent]) -> None:
        """Publish the events of one unit of work after its commit."""
        for event in events:
            assert event.seq is not None, "a reading is a step"
            digits = find_currency(event.currency).digits
            balance = CachedBalance(event.available, digits, event.seq)
            self.cache.set_if_newer(event.tenant, event.account, balance)
            self.bus.publish(event)
