"""What the balances' routes take and answer. Amounts are integers of minor units unless it says otherwise."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from steelyard.balances.model import Account, Balance, Change
from steelyard.core.clock import format_utc
from steelyard.core.money import LARGEST_MINOR

PAGE_MAX = 500
BULK_MAX = 10_000
SEQ_MAX = 2**62

CurrencyCode = Annotated[str, Meta(min_length=3, max_length=3, description="ISO 4217.")]
Floor = Annotated[
    int,
    Meta(
        ge=-LARGEST_MINOR,
        le=LARGEST_MINOR,
        description="Least available balance a charge may leave, minor units.",
    ),
]
PageSize = Annotated[int, Meta(ge=1, le=PAGE_MAX)]
Cursor = Annotated[str, Meta(max_length=1024)]


class BookBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """A currency to keep books in."""

    currency: CurrencyCode


class BookAnswer(Struct):
    """A book the tenant keeps."""

    currency: str
    digits: int


class AccountBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """An account to open. `reference` is the caller's own name for it, unique in the tenant."""

    user: Annotated[str, Meta(min_length=1, max_length=128)] | int
    currency: CurrencyCode
    reference: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    name: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    floor: Floor = 0
    is_primary: bool = False


class BulkBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Accounts to open, all or none."""

    accounts: Annotated[list[AccountBody], Meta(min_length=1, max_length=BULK_MAX)]


class OpenedAnswer(Struct):
    """One of a bulk: its account, and whether it was opened now or had been before."""

    account: str
    opened: bool


class BulkAnswer(Struct):
    """Answers in the order of the request."""

    accounts: list[OpenedAnswer]


class FloorBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """What of an account can be changed."""

    floor: Floor


class BalanceAnswer(Struct, omit_defaults=True):
    """A balance at `seq`. `stale` is there when the database did not answer: the last value known, `age_s` old."""

    account: str
    currency: str
    posted: int
    held: int
    available: int
    seq: int
    as_of: str
    suspended: str | None
    stale: bool = False
    age_s: int = 0


class AccountAnswer(Struct):
    """An account with its standing."""

    account: str
    user: str | None
    kind: str
    currency: str
    digits: int
    reference: str | None
    name: str | None
    is_primary: bool
    floor: int
    posted: int
    held: int
    available: int
    seq: int
    suspended: str | None
    total_recharged: int
    total_spent: int
    opened_at: str
    as_of: str


class AccountPage(Struct):
    """Accounts by id; `next_cursor` leads on."""

    data: list[AccountAnswer]
    next_cursor: str | None
    has_more: bool


class ChangeAnswer(Struct):
    """One numbered step of an account. `amount` and `held_amount` are signed."""

    seq: int
    transaction: str
    kind: str
    amount: int
    held_amount: int
    balance_after: int
    held_after: int
    available_after: int
    target: str | None
    counter_account: str | None
    details: msgspec.Raw
    posted_at: str


class ChangesAnswer(Struct):
    """Changes after a position, oldest first; ask again from `last_seq` while `has_more`."""

    account: str
    currency: str
    data: list[ChangeAnswer]
    last_seq: int
    has_more: bool


class HistoryPage(Struct):
    """Changes, newest first; `next_cursor` leads to older ones."""

    account: str
    currency: str
    data: list[ChangeAnswer]
    next_cursor: str | None
    has_more: bool


class CachedAnswer(Struct):
    """The caller's available balance in major units, and whether the cache had it."""

    balance: msgspec.Raw
    cached: bool


def balance_answer(balance: Balance, *, stale_s: int | None = None) -> BalanceAnswer:
    """Return what is told of a balance; `stale_s` is its age when the database did not answer."""
    return BalanceAnswer(
        str(balance.account),
        balance.currency.code,
        balance.posted,
        balance.held,
        balance.posted - balance.held,
        balance.seq,
        format_utc(balance.as_of),
        balance.suspended,
        stale_s is not None,
        stale_s or 0,
    )


def account_answer(account: Account) -> AccountAnswer:
    """Return what is told of an account."""
    balance = account.balance
    return AccountAnswer(
        account=str(balance.account),
        user=balance.user,
        kind=balance.kind,
        currency=balance.currency.code,
        digits=balance.currency.digits,
        reference=account.reference,
        name=account.name,
        is_primary=account.is_primary,
        floor=balance.floor,
        posted=balance.posted,
        held=balance.held,
        available=balance.available,
        seq=balance.seq,
        suspended=balance.suspended,
        total_recharged=account.total_recharged,
        total_spent=account.total_spent,
        opened_at=format_utc(account.opened_at),
        as_of=format_utc(balance.as_of),
    )


def change_answer(change: Change) -> ChangeAnswer:
    """Return what is told of a change; `target` is the transaction or hold it is about."""
    return ChangeAnswer(
        seq=change.seq,
        transaction=str(change.transaction),
        kind=change.kind,
        amount=change.amount,
        held_amount=change.held_amount,
        balance_after=change.balance_after,
        held_after=change.held_after,
        available_after=change.balance_after - change.held_after,
        target=None if change.target_seq is None else f"{change.account}-{change.target_seq}",
        counter_account=str(change.contra)
        if change.contra is not None and change.contra_seq is not None
        else None,
        details=msgspec.Raw((change.details or "null").encode()),
        posted_at=format_utc(change.posted_at),
    )
