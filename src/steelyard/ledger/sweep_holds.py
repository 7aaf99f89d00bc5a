"""The sweeper: holds whose time is over are given back. Nothing else ever looks at the clock."""

import asyncio
from dataclasses import dataclass

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, Overloaded
from steelyard.ledger.commit import GroupCommit
from steelyard.ledger.errors import HoldNotOpen
from steelyard.ledger.model import Kind, Order
from steelyard.ledger.store import list_due_holds
from steelyard.runtime.database import Database

PAGE = 500


@dataclass(slots=True)
class HoldSweeper:
    """Expires due holds; several sweepers at once are harmless, each hold ends once."""

    database: Database
    commit: GroupCommit
    clock: Clock
    expired: int = 0

    async def sweep(self) -> int:
        """Expire the holds that are due now, a page at a time. Returns how many ended here."""
        total = 0
        while True:
            due = await list_due_holds(self.database, self.clock.now(), PAGE)
            orders = [
                Order(
                    tenant,
                    Kind.EXPIRE,
                    hold.account,
                    None,
                    key=f"steelyard/expire/{hold}",
                    target=hold.seq,
                )
                for tenant, hold in due
            ]
            ended = sum(await asyncio.gather(*(self._expire(order) for order in orders)))
            total += ended
            self.expired += ended
            if len(due) < PAGE or ended == 0:
                return total

    async def _expire(self, order: Order) -> bool:
        try:
            posted = await self.commit.post(order)
        except (HoldNotOpen, DatabaseUnavailable, Overloaded):
            return False  # ended by someone else meanwhile, or next sweep's turn
        return not posted.replayed
