"""What operators see: how each source stands, and everything of one user."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from steelyard.core.clock import Clock
from steelyard.core.errors import NotFound
from steelyard.core.ids import TenantId, UserId
from steelyard.mirror.store import load_standings
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.model import BALANCES, Reason, SourceStatus, SyncedUser
from steelyard.sync.rules import Cadence, is_tiered, most_targets, refill, refusal_of
from steelyard.sync.store import control, tending
from steelyard.sync.store.budgets import find_budget

COUNT_MAX: Final = 10_000
"""Due targets are counted up to here, per source, below and above logins."""
RUNS_SHOWN: Final = 10
ACCOUNTS_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Viewer:
    """What describing needs: the database, the time, and how often targets are due."""

    database: Database
    clock: Clock
    interval: timedelta | None

    async def sources(
        self, providers: Sequence[str], *, tenant: TenantId | None = None
    ) -> list[SourceStatus]:
        """Return how each source stands, of one tenant or of all.

        Raises:
            DatabaseUnavailable: The database did not answer.
        """
        places = await tending.list_sources(self.database, providers)
        found = [await self._source(*place) for place in places if tenant in (None, place[0])]
        return [one for one in found if one is not None]

    async def _source(self, tenant: TenantId, provider: str) -> SourceStatus | None:
        async with self.database.unit_of_work(tenant) as uow:
            now = self.clock.now()
            known = await find_budget(uow, provider)
            if known is None:
                return None
            cadence = Cadence(self.interval, 0)
            most = most_targets(cadence, known) + 1
            cadence = Cadence(self.interval, await store.count_targets(uow, provider, most=most))
            return SourceStatus(
                tenant=tenant,
                provider=provider,
                budget=refill(known, now=now),
                in_flight=await store.count_in_flight(uow, provider, now=now),
                tiers=tuple(await control.list_due_tiers(uow, provider, count=COUNT_MAX, now=now)),
                is_tiered=is_tiered(cadence, known),
                paused_users=await control.count_paused(uow, provider),
                pause=await control.find_source_pause(uow, provider),
            )

    async def user(self, tenant: TenantId, user: UserId, provider: str) -> SyncedUser:
        """Return everything of one user's syncs at one source.

        Raises:
            NotFound: No such user in this tenant.
            DatabaseUnavailable: The database did not answer.
        """
        async with self.database.unit_of_work(tenant) as uow:
            reason = refusal_of((await load_standings(uow, [user], provider)).get(user))
            if reason is Reason.UNKNOWN_USER:
                raise NotFound(kind="user", identifier=user)
            target = await control.find_target(uow, BALANCES, user)
            is_paused = target is not None and target.pause is not None
            if reason is None and (is_paused or await control.find_source_pause(uow, provider)):
                reason = Reason.PAUSED
            return SyncedUser(
                user=user,
                reason=reason,
                target=target,
                accounts=tuple(
                    await control.list_accounts(uow, user, provider, limit=ACCOUNTS_SHOWN)
                ),
                runs=tuple(await control.list_last_runs(uow, BALANCES, user, limit=RUNS_SHOWN)),
            )
