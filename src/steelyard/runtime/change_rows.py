"""A row of the journal as the event it is told as."""

import asyncpg

from steelyard.core.ids import AccountId, TenantId, TransactionId, UserId
from steelyard.runtime.bus import BalanceEvent


def event_of_change(row: asyncpg.Record) -> BalanceEvent:
    """Read a row of `steelyard.read_changes_at` or `read_changes_after`, of an account that has a user.

    An outside reading (`sync`) is no transaction of ours and names none.
    """
    account, seq = AccountId(row["account_id"]), row["seq"]
    is_receiver = row["kind"] == "transfer" and row["amount"] > 0
    origin = (AccountId(row["contra_id"]), row["contra_seq"]) if is_receiver else (account, seq)
    return BalanceEvent(
        event="balance_updated",
        tenant=TenantId(row["tenant_id"]),
        account=account,
        user=UserId(row["user_id"]),
        currency=row["currency"],
        seq=seq,
        kind=row["kind"],
        amount=row["amount"] - row["held_amount"],
        posted=row["balance_after"],
        held=row["held_after"],
        at=row["posted_at"],
        transaction=None if row["kind"] == "sync" else TransactionId(*origin),
    )
