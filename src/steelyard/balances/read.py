"""Reads balances: concurrent readers share one query, the cache answers where it may."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from steelyard.balances.model import Balance
from steelyard.balances.store import find_primary_account, load_balances
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, NotFound, Overloaded
from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.runtime.cache import BalanceCache, CachedBalance
from steelyard.runtime.database import Database

BATCH_LIMIT = 1024
QUEUE_LIMIT = 20_000
DEADLINE_S = 2.5
PRIMARY_LIMIT = 100_000
PRIMARY_TTL_S = 5.0

Place = tuple[TenantId, AccountId]


@dataclass(slots=True)
class BalanceReader:
    """Answers balance reads; those that arrive while a query runs share the next one."""

    database: Database
    cache: BalanceCache
    clock: Clock
    deadline_s: float = DEADLINE_S
    _queue: deque[tuple[Place, asyncio.Future[Balance]]] = field(default_factory=deque)
    _task: asyncio.Task[None] | None = None
    _primary: dict[tuple[TenantId, UserId], tuple[AccountId, float]] = field(default_factory=dict)

    async def read(self, tenant: TenantId, account: AccountId) -> Balance:
        """Return the account's balance as the database has it now.

        Raises:
            NotFound: No such account in this tenant.
            Overloaded: Too many reads wait already.
            DatabaseUnavailable: No answer within 2.5 s.
        """
        if len(self._queue) >= QUEUE_LIMIT:
            raise Overloaded(queue="balance reads", limit=QUEUE_LIMIT)
        answer: asyncio.Future[Balance] = asyncio.get_running_loop().create_future()
        self._queue.append(((tenant, account), answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="balance reads")
        try:
            async with asyncio.timeout(self.deadline_s):
                return await answer
        except TimeoutError:
            raise DatabaseUnavailable(doing="reading a balance") from None

    async def read_cached(self, tenant: TenantId, account: AccountId) -> tuple[CachedBalance, bool]:
        """Return the available balance and whether the cache had it; a miss fills the cache."""
        held = await self.cache.get(tenant, account)
        if held is not None:
            return held, True
        balance = await self.read(tenant, account)
        found = CachedBalance(balance.available, balance.currency.digits, balance.seq)
        self.cache.set_if_newer(tenant, account, found)
        return found, False

    async def primary_account(self, tenant: TenantId, user: UserId) -> AccountId | None:
        """Return the account that stands for the user, or None without any; remembered for seconds."""
        now_s = self.clock.monotonic_s()
        known = self._primary.get((tenant, user))
        if known is not None and now_s - known[1] < PRIMARY_TTL_S:
            return known[0]
        account = await find_primary_account(self.database, tenant, user)
        if account is not None:
            if len(self._primary) >= PRIMARY_LIMIT:
                self._primary.clear()
            self._primary[(tenant, user)] = (account, now_s)
        return account

    async def _run(self) -> None:
        while self._queue:
            taken = [self._queue.popleft() for _ in range(min(BATCH_LIMIT, len(self._queue)))]
            waiting = [(place, answer) for place, answer in taken if not answer.done()]
            if not waiting:
                continue
            try:
                async with asyncio.timeout(self.deadline_s):
                    found = await load_balances(
                        self.database, list({place for place, _ in waiting})
                    )
            except (DatabaseUnavailable, TimeoutError):
                failure = DatabaseUnavailable(doing="reading balances")
                for _, answer in waiting:
                    if not answer.done():
                        answer.set_exception(failure)
                continue
            by_place = {(balance.tenant, balance.account): balance for balance in found}
            for place, answer in waiting:
                if not answer.done():
                    _settle(answer, by_place.get(place), place)


def _settle(answer: asyncio.Future[Balance], balance: Balance | None, place: Place) -> None:
    if balance is None:
        answer.set_exception(NotFound(kind="account", identifier=str(place[1])))
    else:
        answer.set_result(balance)
