"""How mirrored users stand: their accounts as they were read last, and what their syncs came to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from steelyard.core.ids import AccountId, UserId
from steelyard.core.money import Currency


@dataclass(frozen=True, slots=True)
class AccountStanding:
    """A mirrored account. `balance` in minor units; `read_at` is None until it was read once.

    Args:
        seq: Number of its last change.
        ending: Last two characters of its number at the source.
    """

    account: AccountId
    currency: Currency
    balance: int
    seq: int
    read_at: datetime | None
    is_primary: bool
    account_type: str | None
    ending: str


@dataclass(frozen=True, slots=True)
class UserStanding:
    """A user with at least one account that is read, the primary one first.

    Args:
        is_paused: Nobody asks for the user until that is ended.
        last_result: Of the newest sync: `ok`, or an error code.
    """

    user: UserId
    name: str | None
    accounts: Sequence[AccountStanding]
    is_paused: bool = False
    last_result: str | None = None

    @property
    def read_at(self) -> datetime | None:
        """When the one that was not read for longest was read; None where one never was."""
        moments = [one.read_at for one in self.accounts]
        known = [moment for moment in moments if moment is not None]
        return min(known) if len(known) == len(moments) else None
