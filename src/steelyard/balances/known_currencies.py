"""Remembers which currency an account is in. It never changes, so what is remembered never ages."""

from dataclasses import dataclass, field

from steelyard.balances.read import BalanceReader
from steelyard.core.ids import AccountId, TenantId

LIMIT = 100_000


@dataclass(slots=True)
class KnownCurrencies:
    """Currency codes by account; asks the database once for each."""

    reader: BalanceReader
    _codes: dict[tuple[TenantId, AccountId], str] = field(default_factory=dict)

    async def get(self, tenant: TenantId, account: AccountId) -> str:
        """Return the account's currency code.

        Raises:
            NotFound: No such account in this tenant.
            DatabaseUnavailable: It did not answer.
        """
        code = self._codes.get((tenant, account))
        if code is None:
            code = (await self.reader.read(tenant, account)).currency.code
            if len(self._codes) >= LIMIT:
                self._codes.clear()
            self._codes[(tenant, account)] = code
        return code
