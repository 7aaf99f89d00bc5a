"""Top-ups: requested by one, approved or refused by another."""

from dataclasses import dataclass, replace
from datetime import datetime

from steelyard.core.errors import NotFound
from steelyard.core.ids import TransactionId
from steelyard.ledger.errors import RequesterCannotApprove, TopupAlreadyProcessed
from steelyard.ledger.model import Details, Kind, Order, Posted, Topup
from steelyard.ledger.post_in import post_in
from steelyard.ledger.store import close_topup, lock_topup
from steelyard.runtime.database import UnitOfWork


@dataclass(frozen=True, slots=True)
class Decision:
    """A top-up after somebody decided on it."""

    topup: Topup
    posted: Posted | None
    """What was posted, if this call approved it."""
    is_new: bool
    """This call decided; False when it was decided alike before."""


async def process_topup(
    uow: UnitOfWork, topup_id: str, *, approve: bool, by: str, now: datetime
) -> Decision:
    """Decide on a pending top-up, once.

    The same decision again changes nothing and answers what was decided. The row is locked, so two who
    decide at once run one after the other.

    Raises:
        NotFound: No such top-up in this tenant.
        RequesterCannotApprove: `by` asked for it.
        TopupAlreadyProcessed: It was decided the other way.
        SteelyardError: The ledger refused (balance limit); the top-up stays pending.
    """
    topup = await lock_topup(uow, topup_id)
    if topup is None:
        raise NotFound(kind="top-up", identifier=topup_id)
    wanted = "success" if approve else "failed"
    if topup.status == wanted:
        return Decision(topup, None, is_new=False)
    if topup.status != "pending":
        raise TopupAlreadyProcessed(
            what=f"top-up {topup_id}", why=f"was decided before: {topup.status}"
        )
    if by == topup.requested_by:
        raise RequesterCannotApprove(topup=topup_id)
    posted = None
    if approve:
        posted = await post_in(uow.connection, topup_order(uow, topup), now=now)
    seq = None if posted is None else posted.seq
    await close_topup(uow, topup_id, status=wanted, by=by, at=now, seq=seq)
    decided = replace(topup, status=wanted, processed_by=by, processed_at=now, seq=seq)
    return Decision(decided, posted, is_new=True)


def topup_order(uow: UnitOfWork, topup: Topup) -> Order:
    """Return the order that pays a top-up out; its key is its own, so it can be paid once only."""
    return Order(
        tenant=uow.tenant,
        kind=Kind.TOPUP,
        account=topup.account,
        amount=topup.amount,
        key=f"steelyard/topup/{topup.id}",
        details=Details(reference_model="topup", reference_id=topup.id).to_json(),
    )


def transaction_of(topup: Topup) -> TransactionId | None:
    """Return the transaction an approved top-up was paid by."""
    return None if topup.seq is None else TransactionId(topup.account, topup.seq)
