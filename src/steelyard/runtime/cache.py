"""The balance cache: bounded, forgetful, and never older than what it already holds."""

from collections import OrderedDict
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
    """Keeps the newest known available balance per account. Losing all of it is harmless."""

    def set_if_newer(self, tenant: TenantId, account: AccountId, balance: CachedBalance) -> bool:
        """Store unless something with the same or a larger `seq` is held. Returns whether it was stored."""
        ...

    def get(self, tenant: TenantId, account: AccountId) -> CachedBalance | None:
        """Return what is held and not older than an hour."""
        ...

    def forget(self, tenant: TenantId, account: AccountId) -> None:
        """Drop what is held; the next read asks the database."""
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

    def get(self, tenant: TenantId, account: AccountId) -> CachedBalance | None:
        """Return what is held, if it is fresh enough."""
        held = self._held.get((tenant, account))
        if held is None or self.clock.monotonic_s() - held[1] >= TTL_S:
            return None
        return held[0]

    def forget(self, tenant: TenantId, account: AccountId) -> None:
        """Drop what is held."""
        self._held.pop((tenant, account), None)
