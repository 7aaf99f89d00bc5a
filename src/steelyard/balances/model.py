"""What a balance and a change are."""

from dataclasses import dataclass
from datetime import datetime

from steelyard.core.ids import AccountId, TenantId, TransactionId, UserId
from steelyard.core.money import Currency


@dataclass(frozen=True, slots=True)
class Balance:
    """One account's standing at `seq`. Amounts in minor units of `currency`."""

    tenant: TenantId
    account: AccountId
    user: UserId | None
    kind: str
    """held, mirrored or system."""
    currency: Currency
    posted: int
    held: int
    floor: int
    """Least available balance a charge may leave."""
    seq: int
    suspended: str | None
    """below_floor, chain_broken, or None."""
    as_of: datetime

    @property
    def available(self) -> int:
        """What can be spent: posted less held."""
        return self.posted - self.held


@dataclass(frozen=True, slots=True)
class Account:
    """An account as it was opened, with its standing."""

    balance: Balance
    reference: str | None
    name: str | None
    is_primary: bool
    opened_at: datetime
    total_recharged: int
    total_spent: int


@dataclass(frozen=True, slots=True)
class Change:
    """One numbered step of one account: posting, hold or release."""

    account: AccountId
    seq: int
    kind: str
    amount: int
    """Signed step of posted."""
    held_amount: int
    """Signed step of held."""
    balance_after: int
    held_after: int
    contra: AccountId | None
    contra_seq: int | None
    target_seq: int | None
    posted_at: datetime
    details: str | None
    """JSON as it was sent."""

    @property
    def transaction(self) -> TransactionId:
        """The transaction this change belongs to: a transfer's is where the money left."""
        if (
            self.contra is not None
            and self.contra_seq is not None
            and self.kind == "transfer"
            and self.amount > 0
        ):
            return TransactionId(self.contra, self.contra_seq)
        return TransactionId(self.account, self.seq)


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account to open. `reference` is the caller's own name for it, unique in the tenant."""

    user: UserId
    currency: Currency
    reference: str | None = None
    name: str | None = None
    floor: int = 0
    is_primary: bool = False
