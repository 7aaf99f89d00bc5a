"""Steps of an account as the bus and the journal tell them, for tests of the live gateway."""

from datetime import UTC, datetime

from steelyard.core.ids import AccountId, TenantId, TransactionId, UserId
from steelyard.runtime.bus import BalanceEvent

TENANT, USER, ACCOUNT = TenantId("default"), UserId("ann"), AccountId(7)
MORNING = datetime(2026, 1, 1, 8, tzinfo=UTC)


def step_of(
    seq: int,
    amount: int = 100,
    *,
    posted: int | None = None,
    held: int = 0,
    kind: str = "recharge",
    account: AccountId = ACCOUNT,
) -> BalanceEvent:
    """A committed step; without `posted` every step adds `amount`."""
    return BalanceEvent(
        event="balance_updated",
        tenant=TENANT,
        account=account,
        user=USER,
        currency="GBP",
        seq=seq,
        kind=kind,
        amount=amount,
        posted=seq * amount if posted is None else posted,
        held=held,
        at=MORNING,
        transaction=TransactionId(account, seq),
    )
