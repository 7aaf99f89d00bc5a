"""Turns what the SQL function answered into a posted order or a typed error."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import asyncpg

from steelyard.balances.store import BatchColumns
from steelyard.core.errors import InvalidInput, NotFound, SteelyardError
from steelyard.core.ids import AccountId, TransactionId
from steelyard.ledger import errors
from steelyard.ledger.model import Order, Posted

T = TypeVar("T")
Outcome = Posted | SteelyardError


def columns_of(orders: list[Order], expires_at: list[datetime | None]) -> BatchColumns:
    """Lay orders out column by column."""
    return BatchColumns(
        tenants=[order.tenant for order in orders],
        keys=[order.key for order in orders],
        body_hashes=[order.body_hash() for order in orders],
        kinds=[order.kind for order in orders],
        accounts=[order.account for order in orders],
        counters=_or_none([order.counter for order in orders]),
        amounts=[order.amount for order in orders],
        targets=_or_none([order.target for order in orders]),
        expires_at=_or_none(expires_at),
        forced=_or_none([order.forced for order in orders]),
        details=_or_none([order.details for order in orders]),
        keys_repeat=len({(order.tenant, order.key) for order in orders}) < len(orders),
    )


def _or_none(column: list[T]) -> list[T] | None:
    return column if any(column) else None


_COLUMNS = (
    "r_outcome",
    "r_seq",
    "r_amount",
    "r_held_amount",
    "r_balance_after",
    "r_held_after",
    "r_posted_at",
    "r_counter",
    "r_counter_seq",
    "r_account",
)


def outcomes_of(orders: list[Order], row: asyncpg.Record, now: datetime) -> list[Outcome]:
    """Read one outcome per order from the record of arrays; `now` is when the batch was posted."""
    accounts = [
        (None, None, 0),
        *zip(row["r_user_id"] or (), row["r_currency"] or (), row["r_floor"] or (), strict=True),
    ]
    columns = zip(orders, *(row[name] for name in _COLUMNS), strict=True)
    return [
        _outcome_of(order, answer, accounts[answer[-1] or 0], now) for order, *answer in columns
    ]


def _outcome_of(
    order: Order, answer: list[Any], account: tuple[Any, Any, int], now: datetime
) -> Outcome:
    outcome, seq, amount, held, balance, held_after, at, counter, counter_seq, _ = answer
    user, currency, floor = account
    if outcome != "posted" and outcome != "replayed":
        short = AccountId(counter) if outcome == "counter_insufficient_funds" else order.account
        available = 0 if balance is None else balance - held_after
        return refusal_of(outcome, order, Standing(short, available, floor, currency or ""))
    return Posted(
        transaction=TransactionId(order.account, seq),
        replayed=outcome == "replayed",
        kind=order.kind,
        tenant=order.tenant,
        account=order.account,
        user=user,
        currency=currency,
        amount=amount,
        held_amount=held,
        balance_after=balance,
        held_after=held_after,
        seq=seq,
        posted_at=at or now,
        counter=counter,
        counter_seq=counter_seq,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """How the account stood whose money was not enough."""

    account: AccountId
    available: int
    floor: int
    currency: str


def refusal_of(outcome: str, order: Order, standing: Standing) -> SteelyardError:
    """Return the typed error of a refusal."""
    if outcome in ("insufficient_funds", "counter_insufficient_funds"):
        return errors.InsufficientFunds(
            account=standing.account,
            available=standing.available,
            floor=standing.floor,
            required=abs(order.amount or 0),
            currency=standing.currency,
        )
    account, target = order.account, f"{order.account}-{order.target}"
    refusals: dict[str, SteelyardError] = {
        "idempotency_conflict": errors.IdempotencyConflict(key=order.key),
        "account_not_found": NotFound(kind="account", identifier=str(account)),
        "counter_account_not_found": NotFound(kind="account", identifier=str(order.counter)),
        "account_suspended": errors.AccountSuspended(account=account),
        "amount_invalid": InvalidInput(
            field="amount", problem="must be from 1 to 2^53 - 1 minor units"
        ),
        "balance_limit": errors.BalanceLimit(account=account),
        "same_account": errors.SameAccount(what=f"account {account}", why="cannot pay itself"),
        "currency_mismatch": errors.CurrencyMismatch(
            account=account, other=f"account {order.counter}"
        ),
        "hold_not_found": NotFound(kind="hold", identifier=target),
        "hold_not_open": errors.HoldNotOpen(what=f"hold {target}", why="is not open any more"),
        "hold_not_due": errors.HoldNotOpen(what=f"hold {target}", why="has not expired yet"),
        "capture_exceeds_hold": errors.CaptureExceedsHold(
            what=f"hold {target}", why="is smaller than the capture"
        ),
        "transaction_not_found": NotFound(kind="transaction", identifier=target),
        "not_reversible": errors.NotReversible(
            what=f"transaction {target}", why="is not of a kind that can be reversed"
        ),
        "already_reversed": errors.AlreadyReversed(
            what=f"transaction {target}", why="was reversed before"
        ),
        "reversal_exceeds_transaction": errors.ReversalExceedsTransaction(
            what=f"transaction {target}", why="has less left to reverse than was asked for"
        ),
    }
    return refusals.get(outcome) or errors.LedgerFailure(reason=outcome)
