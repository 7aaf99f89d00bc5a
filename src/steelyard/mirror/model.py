"""What a mirrored account and a reading of it are."""

from dataclasses import dataclass, field
from datetime import datetime

from steelyard.core.ids import AccountId, UserId
from steelyard.core.money import Currency


@dataclass(frozen=True, slots=True)
class NewMirroredAccount:
    """An account at a provider, to be mirrored. `number` is the provider's own name for it."""

    user: UserId
    provider: str
    number: str
    currency: Currency
    account_type: str | None = None
    is_primary: bool = False
    is_active: bool = True


@dataclass(frozen=True, slots=True)
class MirroredAccount:
    """A mirrored account as it is known now. `posted` in minor units; `read_at` is None until it was read once."""

    account: AccountId
    user: UserId
    provider: str
    number: str
    currency: Currency
    is_primary: bool
    is_active: bool
    posted: int
    read_at: datetime | None

    def __repr__(self) -> str:
        """Hide the number: bank account numbers are in no log."""
        return f"MirroredAccount({self.account}, …{self.number[-2:]})"


@dataclass(frozen=True, slots=True)
class Customer:
    """A user as a customer of a bank. Only active ones with the context `MOBILE_BANKING` are asked for there."""

    user: UserId
    is_active: bool
    context: str
    customer_number: str | None = None
    display_name: str | None = None


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """A mirrored account as it was told of. `account` None: it is not opened yet."""

    account: AccountId | None
    user: UserId
    number: str = field(repr=False)
    currency: Currency
    account_type: str | None = None
    is_primary: bool = False
    is_active: bool = True
    is_read: bool = False
    """Whether a balance came from its source, or was told, at least once."""


@dataclass(frozen=True, slots=True)
class ShownBalance:
    """What a reading says of one account: the balance to show, and all that were reported.

    Args:
        account: The mirrored account.
        minor: The balance to show, minor units of the account's currency.
        read_at: UTC; the moment it was true at, by the clock of who read it.
        kinds: Each balance that was reported, by its kind, minor units.
    """

    account: AccountId
    minor: int
    read_at: datetime
    kinds: dict[str, int]
