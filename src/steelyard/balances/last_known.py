"""What a balance last was, for when the database does not answer: said to be old, and how old."""

from collections import OrderedDict
from dataclasses import dataclass, field

from steelyard.balances.model import Balance
from steelyard.balances.read import BalanceReader
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import AccountId, TenantId

LIMIT = 50_000
AGE_S_MAX = 3600.0


@dataclass(slots=True)
class LastKnownBalances:
    """Reads balances and remembers the newest answer of each account, for an hour at most."""

    reader: BalanceReader
    clock: Clock
    _known: OrderedDict[tuple[TenantId, AccountId], tuple[Balance, float]] = field(
        default_factory=OrderedDict
    )

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
            if known is None:
                raise
            age_s = self.clock.monotonic_s() - known[1]
            if age_s > AGE_S_MAX:
                raise
            return known[0], int(age_s)
        self._known[place] = (balance, self.clock.monotonic_s())
        if len(self._known) > LIMIT:
            self._known.popitem(last=False)
        return balance, None
