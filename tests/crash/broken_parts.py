"""Broken versions of the ledger's parts, for processes of `tests.crash.serve_orders` only.

Each is a mistake that a plausible group commit or reader could make. They stand here, in the test: the product has no
switch for any of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar

from msgspec.structs import replace

from steelyard.balances.model import Balance
from steelyard.balances.read import BalanceReader
from steelyard.core.ids import AccountId, TenantId, TransactionId
from steelyard.ledger.commit import GroupCommit, _Request
from steelyard.ledger.errors import InsufficientFunds
from steelyard.ledger.model import Order, Posted
from steelyard.ledger.publish import PublishChanges
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.database import CONNECTION_LOST, Connection, Database


class AnswersBeforeCommit(GroupCommit):
    """Tells its callers what was decided, and commits a moment later."""

    async def _call(self, connection: Connection, batch: list[_Request]) -> None:
        async with connection.transaction():
            await super()._call(connection, batch)
            await asyncio.sleep(0.01)


class MixesUpAnswers(GroupCommit):
    """Hands the outcomes of a batch to the wrong callers."""

    async def _call(self, connection: Connection, batch: list[_Request]) -> None:
        others = batch[1:] + batch[:1]
        mixed = [
            _Request(one.order, other.answer) for one, other in zip(batch, others, strict=True)
        ]
        await super()._call(connection, mixed)


class ResendsUnderNewKey(GroupCommit):
    """When the connection is lost it sends the batch again, under new keys."""

    async def _call(self, connection: Connection, batch: list[_Request]) -> None:
        try:
            await super()._call(connection, batch)
        except CONNECTION_LOST:
            for request in batch:
                request.order = replace(request.order, key=f"{request.order.key}-again")
            raise


class SwallowsErrors(GroupCommit):
    """Takes a lost connection for a success: the batch will have gone through."""

    last: ClassVar[dict[AccountId, Posted]] = {}

    async def post(self, order: Order) -> Posted:
        posted = await super().post(order)
        self.last[order.account] = posted
        return posted

    async def _call(self, connection: Connection, batch: list[_Request]) -> None:
        try:
            await super()._call(connection, batch)
        except CONNECTION_LOST:
            connection.terminate()
            for request in batch:
                before = self.last.get(request.order.account)
                if before is not None and not request.answer.done():
                    request.answer.set_result(_next_after(before, request.order))
            raise


def _next_after(before: Posted, order: Order) -> Posted:
    """Guess what an order did from the order before it."""
    amount = -(order.amount or 0)
    return replace(
        before,
        transaction=TransactionId(order.account, before.seq + 1),
        kind=order.kind,
        amount=amount,
        held_amount=0,
        balance_after=before.balance_after + amount,
        seq=before.seq + 1,
    )


class RefusesWhatItWrote(GroupCommit):
    """Refuses what took it too long, after it was written."""

    async def post(self, order: Order) -> Posted:
        began_s = time.monotonic()
        posted = await super().post(order)
        if time.monotonic() - began_s > 0.02 and posted.amount < 0:
            raise InsufficientFunds(
                account=order.account,
                available=0,
                floor=0,
                required=abs(posted.amount),
                currency=posted.currency,
            )
        return posted


@dataclass
class ReadsStale(BalanceReader):
    """Answers reads from what it read within the last 100 ms."""

    held: dict[AccountId, tuple[float, Balance]] = field(default_factory=dict)

    async def read(self, tenant: TenantId, account: AccountId) -> Balance:
        known = self.held.get(account)
        if known is not None and time.monotonic() - known[0] < 0.1:
            return known[1]
        balance = await super().read(tenant, account)
        self.held[account] = (time.monotonic(), balance)
        return balance


MakeParts = Callable[[str, Database], Awaitable[tuple[GroupCommit, BalanceReader]]]


def _with(
    commit_type: type[GroupCommit] = GroupCommit, reader_type: type[BalanceReader] = BalanceReader
) -> MakeParts:
    async def make(url: str, database: Database) -> tuple[GroupCommit, BalanceReader]:
        clock, bus = SystemClock(), InProcessBus()
        cache = InProcessCache(clock)
        commit = commit_type(url, clock, PublishChanges(bus, cache, clock))
        return commit, reader_type(database, cache, clock)

    return make


BROKEN_PARTS: dict[str, MakeParts] = {
    "answers before commit": _with(AnswersBeforeCommit),
    "answers mixed up": _with(MixesUpAnswers),
    "resends under a new key": _with(ResendsUnderNewKey),
    "error taken for success": _with(SwallowsErrors),
    "refuses what it wrote": _with(RefusesWhatItWrote),
    "stale reads": _with(reader_type=ReadsStale),
}
