"""The balance cache: bounded, forgetful, and never older than what it already holds.

In this process here, in Redis or Valkey in `steelyard.runtime.redis`; one suite of tests holds for both
(`steelyard.testing.cache_contract`). Losing all of it is harmless: the database answers.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from steelyard.core.clock import Clock
from steelyard.core.ids import AccountId, TenantId

TTL_S = 3600.0


class CachedBalance(msgspec.Struct, frozen=True):
    """An available balance as of `seq`, minor units."""

    available: int
    digits: int
    seq: int


class BalanceCache(Protocol):
    """Keeps the newest known available balance per account.

    Writing never waits and never raises: it may be lost. Reading has a deadline of its own; what does not
    come in time is a miss.
    """

    def set_if_newer(self, tenant: TenantId, account: AccountId, balance: CachedBalance) -> bool:
        """Store, now or soon, unless something with the same or a larger `seq` is held.

        Returns:
            False where it is known already that it will not be stored.
        """
        ...

    async def get(self, tenant: TenantId, account: AccountId) -> CachedBalance | None:
        """Return what is held and not older than an hour; None too where the cache does not answer within 100 ms."""
        ...

    async def get_many(
        self, tenant: TenantId, accounts: Collection[AccountId]
    ) -> dict[AccountId, CachedBalance]:
        """Return what is held of these accounts, as `get` does; for proofs, with more time."""
        ...

    async def forget(self, tenant: TenantId, accounts: Collection[AccountId]) -> None:
        """Drop what is held of these accounts; from its return on the database is asked."""
        ...


@dataclass(slots=True)
class InProcessCache:
    """A cache in this process, least recently written out first."""

    clock: Clock
    limit: int = 100_000
    _held: OrderedDict[tuple[TenantId, AccountId], tuple[CachedBalance, float]] = field(
        default_factory=OrderedDict
    )

    def set_if_newer(self, tenant: TenantId, account: AccountId, balance: CachedBalance) -> bool:
        """Store unless what is held is as new."""
        held = self._held.get((tenant, account))
        now_s = self.clock.monotonic_s()
        if held is not None and held[0].seq >= balance.seq and now_s - held[1] < TTL_S:
            return False
        self._held[(tenant, account)] = (balance, now_s)
        self._held.move_to_end((tenant, account))
        while len(self._held) > self.limit:
            self._held.popitem(last=False)
        return True

    async def get(self, tenant: TenantId, account: AccountId) -> CachedBalance | None:
        """Return what is held, if it is fresh enough."""
        return self._held_now(tenant, account)

    async def get_many(
        self, tenant: TenantId, accounts: Collection[AccountId]
    ) -> dict[AccountId, CachedBalance]:
        """Return what is held of these accounts."""
        held = ((account, self._held_now(tenant, account)) for account in accounts)
        return {account: balance for account, balance in held if balance is not None}

    async def forget(self, tenant: TenantId, accounts: Collection[AccountId]) -> None:
        """Drop what is held."""
        for account in accounts:
            self._held.pop((tenant, account), None)

    def _held_now(self, tenant: TenantId, account: AccountId) -> CachedBalance | None:
        held = self._held.get((tenant, account))
        if held is None or self.clock.monotonic_s() - held[1] >= TTL_S:
            return None
        return held[0]
