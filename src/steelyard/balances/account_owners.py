"""Remembers whose accounts are, and which one stands for its user: names of keys and channels depend on it."""

from collections.abc import Collection
from dataclasses import dataclass, field

from steelyard.balances.store import find_primary_accounts, load_balances
from steelyard.core.clock import Clock
from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.runtime.database import Database
from steelyard.runtime.redis.owners import Owner, Place

LIMIT = 200_000
PRIMARY_TTL_S = 5.0


@dataclass(slots=True)
class KnownOwners:
    """Owners by account. A user never changes; which account is primary is asked again after 5 s."""

    database: Database
    clock: Clock
    _users: dict[Place, UserId | None] = field(default_factory=dict)
    _primary: dict[tuple[TenantId, UserId], tuple[AccountId, float]] = field(default_factory=dict)

    def note(self, tenant: TenantId, account: AccountId, user: UserId) -> None:
        """Hear whose an account is."""
        if len(self._users) >= LIMIT:
            self._users.clear()
        self._users[(tenant, account)] = user

    async def find(self, places: Collection[Place]) -> dict[Place, Owner]:
        """Return the owners, asking the database at most twice.

        Raises:
            DatabaseUnavailable: It did not answer.
        """
        users = await self._find_users(places)
        wanted = {(place[0], user) for place, user in users.items()}
        primary = await self._find_primary(wanted)
        return {
            place: Owner(user, primary.get((place[0], user)) == place[1])
            for place, user in users.items()
        }

    async def _find_users(self, places: Collection[Place]) -> dict[Place, UserId]:
        unknown = [place for place in places if place not in self._users]
        found = {place: self._users.get(place) for place in places}
        if unknown:
            for balance in await load_balances(self.database, unknown):
                found[(balance.tenant, balance.account)] = balance.user
            if len(self._users) + len(unknown) > LIMIT:
                self._users.clear()
            self._users.update((place, found[place]) for place in unknown)
        return {place: user for place, user in found.items() if user is not None}

    async def _find_primary(
        self, users: Collection[tuple[TenantId, UserId]]
    ) -> dict[tuple[TenantId, UserId], AccountId]:
        now_s = self.clock.monotonic_s()
        found: dict[tuple[TenantId, UserId], AccountId] = {}
        unknown: list[tuple[TenantId, UserId]] = []
        for one in users:
            known = self._primary.get(one)
            if known is not None and now_s - known[1] < PRIMARY_TTL_S:
                found[one] = known[0]
            else:
                unknown.append(one)
        if unknown:
            asked = await find_primary_accounts(self.database, unknown)
            if len(self._primary) + len(asked) > LIMIT:
                self._primary.clear()
            self._primary.update((one, (account, now_s)) for one, account in asked.items())
            found |= asked
        return found
