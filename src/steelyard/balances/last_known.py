"""What a balance last was, for when the database does not answer: said to be old, and how old."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from steelyard.balances.model import Balance
from steelyard.balances.read import BalanceReader
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import AccountId, TenantId, UserId

LIMIT = 50_000
AGE_S_MAX = 3600.0
READ_DEADLINE_S = 0.7
"""So short that an answer from memory leaves in time, even after the caller and its account were looked up."""


@dataclass(slots=True)
class LastKnownBalances:
    """Reads balances and remembers the newest answer of each account, for an hour at most.

    `reader` must give up after `READ_DEADLINE_S`.
    """

    reader: BalanceReader
    clock: Clock
    _known: OrderedDict[tuple[TenantId, AccountId], tuple[Balance, float]] = field(
        default_factory=OrderedDict
    )
    _primary: OrderedDict[tuple[TenantId, UserId], AccountId] = field(default_factory=OrderedDict)

    async def read(self, tenant: TenantId, account: AccountId) -> tuple[Balance, int | None]:
        """Return the balance and None, or the last one known and its age in seconds.

        Raises:
            NotFound: No such account in this tenant.
            DatabaseUnavailable: No answer, and nothing is known that is younger than an hour.
        """
        place = (tenant, account)
        try:
            balance = await self.reader.read(tenant, account)
        except DatabaseUnavailable:
            known = self._known.get(place)
            age_s = 0.0 if known is None else self.clock.monotonic_s() - known[1]
            if known is None or age_s > AGE_S_MAX:
                raise
            return known[0], int(age_s)
        self._known[place] = (balance, self.clock.monotonic_s())
        if len(self._known) > LIMIT:
            self._known.popitem(last=False)
        return balance, None

    async def primary_account(self, tenant: TenantId, user: UserId) -> AccountId | None:
        """Return the account that stands for the user: the last one known when there is no answer.

        Raises:
            DatabaseUnavailable: No answer, and none is known.
        """
        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                account = await self.reader.primary_account(tenant, user)
        except (DatabaseUnavailable, TimeoutError) as error:
            known = self._primary.get((tenant, user))
            if known is None:
                raise DatabaseUnavailable(doing="looking for an account") from error
            return known
        if account is not None:
            self._primary[(tenant, user)] = account
            if len(self._primary) > LIMIT:
                self._primary.popitem(last=False)
        return account
