"""Posting inside a transaction that is already open: the single function.

For a caller who must charge and write rows of their own together or not at all. Same tables, same SQL
function, same guarantees; the account stays locked until that transaction ends, so keep it short.
Nothing is published on the fast path: the relay does, after the commit.
"""

from datetime import datetime, timedelta

from steelyard.balances.store import post_batch
from steelyard.core.errors import SteelyardError
from steelyard.ledger.model import Order, Posted
from steelyard.ledger.outcomes import columns_of, outcomes_of
from steelyard.runtime.database import Connection


async def post_in(connection: Connection, order: Order, *, now: datetime) -> Posted:
    """Decide and write one order in the caller's open transaction.

    Args:
        connection: An asyncpg connection of a role that is a member of `steelyard_app`, in a transaction.
        order: What to do.
        now: UTC, becomes `posted_at`.
    Raises:
        SteelyardError: Refused; the transaction is still usable and nothing was written for the order.
        asyncpg.PostgresError: A race on the key, or the database failed; roll back and try again.
    """
    expires_at = None if order.expires_in_s is None else now + timedelta(seconds=order.expires_in_s)
    row = await post_batch(connection, now, columns_of([order], [expires_at]), own_transaction=True)
    outcome = outcomes_of([order], row, now)[0]
    if isinstance(outcome, SteelyardError):
        raise outcome
    return outcome
