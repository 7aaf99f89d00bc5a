"""What the ledger's routes take and answer. Amounts are integers of minor units unless it says otherwise."""

from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from steelyard.core.clock import format_utc
from steelyard.core.money import LARGEST_MINOR
from steelyard.ledger.model import Details, Posted

Amount = Annotated[int, Meta(ge=1, le=LARGEST_MINOR, description="Minor units, 1 to 2^53 - 1.")]
SignedAmount = Annotated[
    int, Meta(ge=-LARGEST_MINOR, le=LARGEST_MINOR, description="Minor units with a sign, not 0.")
]
Text = Annotated[str, Meta(max_length=500)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
CurrencyCode = Annotated[str, Meta(pattern="^[A-Z]{3}$", description="ISO 4217.")]
AccountText = Annotated[str, Meta(min_length=1, max_length=40)]
TransactionText = Annotated[str, Meta(min_length=1, max_length=40, description="As 1042-17.")]


class About(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a transaction is about; kept with it for ever. No personal data."""

    description: Text | None = None
    service_type: Name | None = None
    reference_model: Name | None = None
    reference_id: Name | None = None

    def details(self) -> Details:
        """Return it as the ledger keeps it."""
        return Details(self.description, self.service_type, self.reference_model, self.reference_id)


class MoneyBody(About, kw_only=True):
    """An amount to charge, recharge or refund."""

    amount: Amount
    currency: CurrencyCode | None = None


class AdjustmentBody(About, kw_only=True):
    """A correction: what to add, or with a minus to take."""

    amount: SignedAmount
    currency: CurrencyCode | None = None


class HoldBody(MoneyBody, kw_only=True):
    """An amount to set aside, for a time or until it is captured or released."""

    expires_in_s: Annotated[int, Meta(ge=1, le=366 * 86_400)] | None = None


class CaptureBody(About, kw_only=True):
    """A part of a hold to take; all of it without an amount."""

    amount: Amount | None = None
    currency: CurrencyCode | None = None


class ReleaseBody(About, kw_only=True):
    """A hold to give back."""


class TransferBody(MoneyBody, kw_only=True):
    """An amount to move to another account of the same currency."""

    to_account: AccountText | int


class ReversalBody(About, kw_only=True):
    """A transaction to take back: what is left of it, or a part. `force` may leave the account below its floor."""

    transaction: TransactionText
    amount: Amount | None = None
    currency: CurrencyCode | None = None
    force: bool = False


class TransactionAnswer(Struct, omit_defaults=True):
    """A transaction that took effect. `amount` and `held_amount` are the signed steps of posted and held."""

    transaction: str
    account: str
    kind: str
    amount: int
    held_amount: int
    currency: str
    balance_after: int
    held_after: int
    available_after: int
    seq: int
    posted_at: str
    to_account: str | None = None


def answer_of(posted: Posted) -> TransactionAnswer:
    """Return what is told of a posted order; the same the first time and on every replay."""
    return TransactionAnswer(
        str(posted.transaction),
        str(posted.account),
        posted.kind.value,
        posted.amount,
        posted.held_amount,
        posted.currency,
        posted.balance_after,
        posted.held_after,
        posted.balance_after - posted.held_after,
        posted.seq,
        format_utc(posted.posted_at),
        str(posted.counter) if posted.kind == "transfer" else None,
    )


class TopupBody(Struct, kw_only=True, rename="camel"):
    """Money asked for, in major units: 50 or 50.25. `accountId` defaults to the caller's primary account."""

    amount: int | Decimal
    currency: str | None = None
    account_id: AccountText | int | None = None


class ProcessBody(Struct, kw_only=True):
    """A decision: success or approved, failed or rejected."""

    status: str


class BookingBody(Struct, kw_only=True, rename="camel"):
    """A payment, in major units."""

    type: str
    amount: int | Decimal
    reference: Name | int
    currency: str | None = None
    description: Text | None = None
    account_id: AccountText | int | None = None


class RtTransactionAnswer(Struct, omit_defaults=True, rename="camel"):
    """A top-up or booking as the clients of the reference know it; amounts are major units."""

    id: str
    type: str
    status: str
    amount: msgspec.Raw
    balance: msgspec.Raw
    currency: str
    account_id: str
    user_id: str
    timestamp: str
    seq: int | None = None
    reference: str | None = None
