"""What can be ordered of the ledger, and what it answers."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

import msgspec

from steelyard.core.ids import AccountId, TenantId, TransactionId, UserId


class Kind(StrEnum):
    """What an order does. The words are stored in `change.kind`."""

    CHARGE = "charge"
    BOOKING = "booking"
    RECHARGE = "recharge"
    TOPUP = "topup"
    REFUND = "refund"
    REVERSAL = "reversal"
    TRANSFER = "transfer"
    HOLD = "hold"
    CAPTURE = "capture"
    RELEASE = "release"
    EXPIRE = "expire"
    ADJUSTMENT = "adjustment"


_to_json = msgspec.json.Encoder().encode


class Details(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a transaction was about. Kept as JSON with the change and covered by its chain; no personal data."""

    description: str | None = None
    service_type: str | None = None
    reference_model: str | None = None
    reference_id: str | None = None

    def to_json(self) -> str | None:
        """Return compact JSON of the fields that are set, or None where none is."""
        text = _to_json(self).decode()
        return None if text == "{}" else text


# gc=False: orders and what was posted hold nothing that could lead back to them, and there are many.
class Order(msgspec.Struct, frozen=True, gc=False):
    """One thing to do to one held account.

    `amount` is in minor units, > 0 (an adjustment's is signed); None with a capture or reversal means all of it.
    `target` is the `seq` of the hold or change it is about. `counter` receives a transfer.
    `details` is JSON text.
    """

    tenant: TenantId
    kind: Kind
    account: AccountId
    amount: int | None
    key: str
    counter: AccountId | None = None
    target: int | None = None
    expires_in_s: int | None = None
    forced: bool = False
    details: str | None = None

    def body_hash(self) -> bytes:
        """Return the SHA-256 of everything but tenant and key; the free text stands last, so nothing can shift."""
        body = (
            f"{self.kind}|{self.account}|{self.counter or 0}|{'' if self.amount is None else self.amount}|"
            f"{self.target or 0}|{self.expires_in_s or 0}|{self.forced:d}|{self.details or ''}"
        )
        return sha256(body.encode()).digest()


class Posted(msgspec.Struct, frozen=True, gc=False):
    """An order that took effect: now, or when its key was first used (`replayed`). Minor units."""

    transaction: TransactionId
    replayed: bool
    kind: Kind
    tenant: TenantId
    account: AccountId
    user: UserId | None
    currency: str
    amount: int
    """Signed step of posted."""
    held_amount: int
    """Signed step of held."""
    balance_after: int
    held_after: int
    seq: int
    posted_at: datetime
    counter: AccountId | None = None
    counter_seq: int | None = None

    @property
    def available_after(self) -> int:
        """Posted less held, after this step."""
        return self.balance_after - self.held_after


@dataclass(frozen=True, slots=True)
class Topup:
    """A request for money that someone else must approve."""

    id: str
    account: AccountId
    user: UserId
    amount: int
    currency: str
    status: str
    """pending, success or failed."""
    requested_by: str
    requested_at: datetime
    processed_by: str | None
    processed_at: datetime | None
    seq: int | None
