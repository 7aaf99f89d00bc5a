"""Whose an account is: what names of keys and channels depend on. The database knows; see `balances.account_owners`."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from steelyard.core.ids import AccountId, TenantId, UserId

Place = tuple[TenantId, AccountId]


@dataclass(frozen=True, slots=True)
class Owner:
    """The user of an account, and whether it is the one account that stands for the user."""

    user: UserId
    is_primary: bool


class AccountOwners(Protocol):
    """Knows the owners of accounts."""

    def note(self, tenant: TenantId, account: AccountId, user: UserId) -> None:
        """Hear whose an account is; it never changes."""
        ...

    async def find(self, places: Collection[Place]) -> dict[Place, Owner]:
        """Return the owners; accounts that belong to no user are not in the answer.

        Raises:
            DatabaseUnavailable: It had to be asked and did not answer.
        """
        ...
