"""What is said of users with accounts at the core bank, and the words for why it is not taken."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from steelyard.core.ids import AccountId, UserId
from steelyard.core.money import Currency

MOBILE_BANKING: Final = "MOBILE_BANKING"
WALLET: Final = "WALLET"
CONTEXTS: Final = (MOBILE_BANKING, WALLET)


class Refusal(StrEnum):
    """Why one item was not taken. Stable: scripts match on them."""

    UNREADABLE_LINE = "unreadable_line"
    LINE_TOO_LONG = "line_too_long"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    INVALID_VALUE = "invalid_value"
    UNKNOWN_CURRENCY = "unknown_currency"
    DUPLICATE = "duplicate"
    TWO_PRIMARIES = "two_primaries"
    USER_DIFFERS = "user_differs"
    NUMBER_TAKEN = "number_taken"
    CURRENCY_DIFFERS = "currency_differs"
    TOO_MANY_ACCOUNTS = "too_many_accounts"


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item that was not taken: `line` counts from 1, in a call the items do. `reason` holds no account number."""

    line: int
    field: str
    code: Refusal
    reason: str
    user: str | None = None


class ItemRefused(Exception):
    """One item cannot be taken."""

    def __init__(self, field: str, code: Refusal, reason: str) -> None:
        self.field, self.code, self.reason = field, code, reason
        super().__init__(f"{field}: {reason}")

    def at(self, line: int, user: str | None = None) -> RefusedItem:
        """Return the refusal of the item at `line`."""
        return RefusedItem(line, self.field, self.code, self.reason, user)


@dataclass(frozen=True, slots=True)
class GivenAccount:
    """What is said of one account. None: as it is; for a new one the default (active, not primary, no type)."""

    number: str = field(repr=False)
    currency: Currency | None = None
    account_type: str | None = None
    is_primary: bool | None = None
    is_active: bool | None = None
    balance: str | None = None
    """In major units; taken for an account that was never read."""
    balance_as_of: datetime | None = None
    """UTC; when `balance` was true."""
    is_joint: bool = False
    """The number may belong to another user as well."""


@dataclass(frozen=True, slots=True)
class GivenUser:
    """What is said of one user in one item. None: as it is."""

    line: int
    id: UserId
    context: str | None = None
    is_active: bool | None = None
    customer_number: str | None = None
    display_name: str | None = None
    accounts: tuple[GivenAccount, ...] = ()


class Outcome(StrEnum):
    """What became of a user or an account."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class EnrolledUser:
    """What became of a user and of its accounts, in the order they were given."""

    id: UserId
    outcome: Outcome
    accounts: tuple[tuple[AccountId | None, Outcome], ...]
    """Each account's id (None: not opened, in a dry run) and what became of it."""


@dataclass(slots=True)
class Counts:
    """How many of what. Users are counted once each, whatever number of lines speak of them."""

    users_created: int = 0
    users_updated: int = 0
    users_unchanged: int = 0
    accounts_opened: int = 0
    accounts_updated: int = 0
    accounts_unchanged: int = 0
    targets_added: int = 0
    targets_removed: int = 0

    def add(self, other: "Counts") -> None:
        """Add another's counts."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def changes(self) -> int:
        """How much was written."""
        return (
            self.users_created
            + self.users_updated
            + self.accounts_opened
            + self.accounts_updated
            + self.targets_added
            + self.targets_removed
        )
