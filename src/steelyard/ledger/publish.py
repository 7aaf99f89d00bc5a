"""The fast path after a commit: cache, then bus. May be lost; the relay makes up for it."""

from dataclasses import dataclass, field

import asyncpg

from steelyard.balances.model import Balance
from steelyard.core.clock import Clock
from steelyard.core.ids import UserId
from steelyard.ledger.errors import InsufficientFunds
from steelyard.ledger.in_order import InOrder
from steelyard.ledger.model import Kind, Order, Posted, Topup
from steelyard.ledger.outcomes import Outcome
from steelyard.runtime.bus import BalanceEvent, ChangeBus
from steelyard.runtime.cache import BalanceCache, CachedBalance
from steelyard.runtime.currencies import find_currency


@dataclass(slots=True)
class PublishChanges:
    """Tells cache and bus what a batch did."""

    bus: ChangeBus
    cache: BalanceCache
    clock: Clock
    order: InOrder = field(init=False)

    def __post_init__(self) -> None:
        """Put steps in order before they are told."""
        self.order = InOrder(self._tell)

    def __call__(self, orders: list[Order], outcomes: list[Outcome], row: asyncpg.Record) -> None:
        """Publish every step of the batch in order; a replayed outcome is published by nobody again."""
        for index, (order, outcome) in enumerate(zip(orders, outcomes, strict=True)):
            if isinstance(outcome, Posted):
                if not outcome.replayed:
                    self._publish_posted(outcome, row, index)
            elif isinstance(outcome, InsufficientFunds) and order.kind is not Kind.REVERSAL:
                self._publish_refusal(order, outcome, row, index)

    def _publish_posted(self, posted: Posted, row: asyncpg.Record, index: int) -> None:
        self.step(posted)
        counter_balance = row["r_counter_balance_after"][index]
        if posted.counter is not None and counter_balance is not None:
            other = Posted(
                posted.transaction,
                False,
                posted.kind,
                posted.tenant,
                posted.counter,
                _user_at(row, "r_counter_account", index),
                posted.currency,
                -posted.amount,
                0,
                counter_balance,
                row["r_counter_held_after"][index],
                row["r_counter_seq"][index],
                posted.posted_at,
            )
            self.step(other)

    def step(self, step: Posted) -> None:
        """Publish one committed step of one account, after the steps before it."""
        self.order.add(step)

    def refused_topup(self, topup: Topup, balance: Balance) -> None:
        """Publish that a top-up was refused; `balance` is its account's, which did not change."""
        self.bus.publish(
            BalanceEvent(
                event="transaction_failed",
                tenant=balance.tenant,
                account=topup.account,
                user=topup.user,
                currency=topup.currency,
                seq=None,
                kind=Kind.TOPUP,
                amount=0,
                posted=balance.posted,
                held=balance.held,
                at=topup.processed_at or self.clock.now(),
                transaction=None,
                reference=topup.id,
            )
        )

    def _tell(self, step: Posted) -> None:
        digits = find_currency(step.currency).digits
        self.cache.set_if_newer(
            step.tenant, step.account, CachedBalance(step.available_after, digits, step.seq)
        )
        self.bus.publish(
            BalanceEvent(
                event="balance_updated",
                tenant=step.tenant,
                account=step.account,
                user=step.user,
                currency=step.currency,
                seq=step.seq,
                kind=step.kind,
                amount=step.amount - step.held_amount,
                posted=step.balance_after,
                held=step.held_after,
                at=step.posted_at,
                transaction=step.transaction,
            )
        )

    def _publish_refusal(
        self, order: Order, refusal: InsufficientFunds, row: asyncpg.Record, index: int
    ) -> None:
        user: UserId | None = _user_at(row, "r_account", index)
        self.bus.publish(
            BalanceEvent(
                event="balance_insufficient",
                tenant=order.tenant,
                account=refusal.account,
                user=user,
                currency=refusal.currency,
                seq=None,
                kind=order.kind,
                amount=0,
                posted=row["r_balance_after"][index],
                held=row["r_held_after"][index],
                at=self.clock.now(),
                transaction=None,
                required=refusal.required,
            )
        )


def _user_at(row: asyncpg.Record, column: str, index: int) -> UserId | None:
    """The user of the account at the position that `column` gives for a request; positions begin at 1."""
    position = row[column][index]
    return None if position is None else UserId(row["r_user_id"][position - 1])
