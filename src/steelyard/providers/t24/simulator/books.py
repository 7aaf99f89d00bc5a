"""The simulated bank's books: what every balance truly is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from steelyard.core.errors import NotFound
from steelyard.core.money import Currency
from steelyard.providers.contract import BalanceKind

_FIRST_NUMBER: Final = 1_000_000_001
_FIRST_CUSTOMER: Final = 500_001


@dataclass(slots=True)
class SimulatedAccount:
    """One account; amounts in minor units of its currency.

    Args:
        booked: Total of posted entries.
        authorised: Of it, debits that are authorised and not yet posted.
        uncleared: Of it, credits that are not cleared.
        locked: Of it, set aside.
    """

    number: str
    customer: str
    currency: Currency
    booked: int = 0
    authorised: int = 0
    uncleared: int = 0
    locked: int = 0

    def truth(self) -> Mapping[BalanceKind, int]:
        """Return every kind of balance, in minor units."""
        working = self.booked - self.authorised
        return {
            BalanceKind.LEDGER: self.booked,
            BalanceKind.ONLINE_ACTUAL: self.booked,
            BalanceKind.WORKING: working,
            BalanceKind.CLEARED: self.booked - self.uncleared,
            BalanceKind.LOCKED: self.locked,
            BalanceKind.USEABLE: working - self.locked,
            BalanceKind.AVAILABLE: working - self.locked,
        }


@dataclass(slots=True)
class Books:
    """All accounts of the bank, by number; the same seed makes the same ones."""

    accounts: dict[str, SimulatedAccount] = field(default_factory=dict)

    @classmethod
    def seeded(cls, chance: Random, *, customers: int, currency: Currency) -> "Books":
        """Return books of so many customers with one to three accounts each."""
        books = cls()
        for index in range(customers):
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                books.add(
                    SimulatedAccount(
                        str(_FIRST_NUMBER + len(books.accounts)),
                        str(_FIRST_CUSTOMER + index),
                        currency,
                        booked=chance.randrange(0, 50_000_000),
                    )
                )
        return books

    def add(self, account: SimulatedAccount) -> SimulatedAccount:
        """Put an account into the books, instead of one of the same number."""
        self.accounts[account.number] = account
        return account

    def find(self, number: str) -> SimulatedAccount | None:
        """Return the account of this number, or None."""
        return self.accounts.get(number)

    def list_of_customer(self, customer: str) -> list[SimulatedAccount]:
        """Return a customer's accounts by number."""
        mine = (one for one in self.accounts.values() if one.customer == customer)
        return sorted(mine, key=lambda one: one.number)

    def post(self, number: str, amount: int) -> SimulatedAccount:
        """Post a credit, or a debit below 0, in minor units.

        Raises:
            NotFound: No account has this number.
        """
        account = self.find(number)
        if account is None:
            raise NotFound(kind="account at the simulated bank", identifier=number)
        account.booked += amount
        return account

    def move_one(self, chance: Random) -> SimulatedAccount | None:
        """Post a small credit or debit to some account and return it; None where there is none."""
        if not self.accounts:
            return None
        account = self.accounts[chance.choice(sorted(self.accounts))]
        account.booked += chance.choice((1, -1)) * chance.randrange(100, 100_000)
        return account
