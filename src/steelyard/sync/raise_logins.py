"""Logins that come at the same moment are one question to the database: what is stored, and a sync for each."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, Overloaded
from steelyard.core.ids import TenantId
from steelyard.mirror.model import MirroredAccount
from steelyard.mirror.store import load_accounts
from steelyard.runtime.database import Database
from steelyard.runtime.errors_out import report_error
from steelyard.sync import store
from steelyard.sync.model import Raised
from steelyard.sync.raise_target import SyncRequest, raise_users

_log = structlog.get_logger()

WAITING_MAX = 20_000
AT_ONCE = 1_000
LOCK_WAIT_S = 0.1
AGAIN_S = 0.03


@dataclass(slots=True)
class _Waiting:
    request: SyncRequest
    learn: Callable[[MirroredAccount | None], None]
    told: asyncio.Future[Raised]


@dataclass(slots=True)
class LoginRaiser:
    """Raises targets for logins. No timer: a tenant's batch is what arrived while its last one was written.

    Tenants are written beside each other. A target that somebody else has locked is passed by and asked for again a
    moment later, so that nobody waits for another's lock.
    """

    database: Database
    clock: Clock
    batches: int = 0
    _waiting: dict[TenantId, list[_Waiting]] = field(default_factory=dict)
    _count: int = 0
    _writing: dict[TenantId, asyncio.Task[None]] = field(default_factory=dict)
    _is_closed: bool = False
    _turns: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        """Leave most of the pool to others."""
        self._turns = asyncio.Semaphore(max(2, self.database.size // 4))

    async def ask(
        self,
        tenant: TenantId,
        request: SyncRequest,
        learn: Callable[[MirroredAccount | None], None] = lambda _: None,
    ) -> Raised:
        """Raise the user's target with all others that ask now. All requests are of one source, kind and priority.

        Args:
            tenant: The user's.
            request: Who, where, how soon.
            learn: Told of the primary account as it is stored, if there is one, as soon as it is known.
        Returns:
            The run to wait for, or why there is none.
        Raises:
            Overloaded: 20,000 logins wait already.
            DatabaseUnavailable: The database did not answer.
        """
        if self._count >= WAITING_MAX:
            raise Overloaded(queue="the queue of logins", limit=WAITING_MAX)
        waiting = _Waiting(request, learn, asyncio.get_running_loop().create_future())
        self._put(tenant, [waiting])
        return await waiting.told

    async def close(self) -> None:
        """End; who still waits is told nothing more."""
        self._is_closed = True
        tasks = list(self._writing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _put(self, tenant: TenantId, waiting: Sequence[_Waiting]) -> None:
        if self._is_closed:
            return
        self._waiting.setdefault(tenant, []).extend(waiting)
        self._count += len(waiting)
        if tenant not in self._writing:
            task = asyncio.create_task(self._write(tenant), name="sync.raise_logins")
            self._writing[tenant] = task

    async def _write(self, tenant: TenantId) -> None:
        try:
            while batch := self._take(tenant):
                await self._write_batch(tenant, batch)
        finally:
            self._writing.pop(tenant, None)

    def _take(self, tenant: TenantId) -> list[_Waiting]:
        """Take the first of each user; who logs in twice at once shares the run, in the next batch."""
        everybody = self._waiting.pop(tenant, [])
        taken: dict[str, _Waiting] = {}
        left: list[_Waiting] = []
        for one in everybody:
            if one.told.done():
                continue  # it waits no more
            if one.request.user in taken or len(taken) >= AT_ONCE:
                left.append(one)
            else:
                taken[one.request.user] = one
        if left:
            self._waiting[tenant] = left
        self._count -= len(everybody) - len(left)
        return list(taken.values())

    async def _write_batch(self, tenant: TenantId, batch: Sequence[_Waiting]) -> None:
        try:
            async with self._turns:
                self.batches += 1
                await self._raise(tenant, batch)
        except asyncpg.LockNotAvailableError:
            self._again(tenant, batch)
        except DatabaseUnavailable as error:
            _refuse(batch, error)
        # The edge of a background task: whatever it is, those who wait have to be told.
        except Exception as error:
            _log.error("sync.logins_not_raised", logins=len(batch), exc_info=error)
            report_error(error, task="sync")
            _refuse(batch, error)

    async def _raise(self, tenant: TenantId, batch: Sequence[_Waiting]) -> None:
        requests = [one.request for one in batch]
        async with self.database.unit_of_work(tenant) as uow:
            await store.limit_lock_waits(uow, LOCK_WAIT_S)
            users = [request.user for request in requests]
            accounts = await load_accounts(uow, users, requests[0].provider)
            for one in batch:
                one.learn(next(iter(accounts.get(one.request.user, ())), None))
            now = self.clock.now()
            raised = await raise_users(uow, requests, now=now, passes_locked=True)
        locked = []
        for one, answer in zip(batch, raised, strict=True):
            if answer.is_locked:
                locked.append(one)
            elif not one.told.done():
                one.told.set_result(answer)
        if locked:
            self._again(tenant, locked)

    def _again(self, tenant: TenantId, waiting: Sequence[_Waiting]) -> None:
        """Ask once more in a moment for those who still wait then."""
        asyncio.get_running_loop().call_later(
            AGAIN_S, self._put, tenant, [one for one in waiting if not one.told.done()]
        )


def _refuse(batch: Sequence[_Waiting], error: Exception) -> None:
    for one in batch:
        if not one.told.done():
            one.told.set_exception(error)
