"""Turns what the SQL function answered into a posted order or a typed error."""

from datetime import datetime

import asyncpg

from steelyard.balances.store import BatchColumns
from steelyard.core.errors import InvalidInput, NotFound, SteelyardError
from steelyard.core.ids import AccountId, TransactionId
from steelyard.ledger import errors
from steelyard.ledger.model import Order, Posted

Outcome = Posted | SteelyardError


def columns_of(orders: list[Order], expires_at: list[datetime | None]) -> BatchColumns:
    """Lay orders out column by column."""
    return BatchColumns(
        tenants=[order.tenant for order in orders],
        keys=[order.key for order in orders],
        body_hashes=[order.body_hash() for order in orders],
        kinds=[order.kind for order in orders],
        accounts=[order.account for order in orders],
        counters=[order.counter for order in orders],
        amounts=[order.amount for order in orders],
        targets=[order.target for order in orders],
        expires_at=expires_at,
        forced=[order.forced for order in orders],
        details=[order.details for order in orders],
    )


def outcomes_of(orders: list[Order], row: asyncpg.Record) -> list[Outcome]:
    """Read one outcome per order from the record of arrays."""
    columns = zip(
        orders,
        row["r_outcome"],
        row["r_seq"],
        row["r_amount"],
        row["r_held_amount"],
        row["r_balance_after"],
        row["r_held_after"],
        row["r_floor"],
        row["r_posted_at"],
        row["r_user_id"],
        row["r_currency"],
        row["r_counter"],
        row["r_counter_seq"],
        strict=True,
    )
    outcomes: list[Outcome] = []
    for (
        order,
        outcome,
        seq,
        amount,
        held,
        balance,
        held_after,
        floor,
        at,
        user,
        currency,
        counter,
        counter_seq,
    ) in columns:
        if outcome == "posted" or outcome == "replayed":
            outcomes.append(
                Posted(
                    TransactionId(order.account, seq),
                    outcome == "replayed",
                    order.kind,
                    order.tenant,
                    order.account,
                    user,
                    currency,
                    amount,
                    held,
                    balance,
                    held_after,
                    seq,
                    at,
                    counter,
                    counter_seq,
                )
            )
        else:
            short = AccountId(counter) if outcome == "counter_insufficient_funds" else order.account
            available = None if balance is None else balance - held_after
            outcomes.append(refusal_of(outcome, order, short, available, floor, currency))
    return outcomes


def refusal_of(
    outcome: str,
    order: Order,
    short: AccountId,
    available: int | None,
    floor: int | None,
    currency: str | None,
) -> SteelyardError:
    """Return the typed error of a refusal; `short` is the account whose standing was not enough."""
    if outcome in ("insufficient_funds", "counter_insufficient_funds"):
        return errors.InsufficientFunds(
            account=short,
            available=available or 0,
            floor=floor or 0,
            required=abs(order.amount or 0),
            currency=currency or "",
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
