"""Logins that come at the same moment are one question to the database: what is stored, and a sync for each."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, Overloaded
from steelyard.core.ids import TenantId
from steelyard.mirror.model import MirroredAccount
from steelyard.mirror.store import load_accounts
from steelyard.runtime.database import Database
from steelyard.runtime.errors_out import report_error
from steelyard.sync.model import Raised
from steelyard.sync.raise_target import SyncRequest, raise_users

_log = structlog.get_logger()

WAITING_MAX = 20_000
AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What a login learns at once: its primary account as it is stored, if it has one, and the run it waits for."""

    stored: MirroredAccount | None
    raised: Raised


@dataclass(slots=True)
class _Waiting:
    request: SyncRequest
    told: asyncio.Future[Asked]


@dataclass(slots=True)
class LoginRaiser:
    """Raises targets for logins. No timer: a batch is what arrived while the last one was written."""

    database: Database
    clock: Clock
    batches: int = 0
    _waiting: dict[TenantId, list[_Waiting]] = field(default_factory=lambda: defaultdict(list))
    _count: int = 0
    _writing: asyncio.Task[None] | None = None

    async def ask(self, tenant: TenantId, request: SyncRequest) -> Asked:
        """Raise the user's target with all others that ask now. All requests are of one source, kind and priority.

        Raises:
            Overloaded: 20,000 logins wait already.
            DatabaseUnavailable: The database did not answer.
        """
        if self._count >= WAITING_MAX:
            raise Overloaded(queue="the queue of logins", limit=WAITING_MAX)
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting[tenant].append(waiting)
        self._count += 1
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="sync.raise_logins")
        return await waiting.told

    async def close(self) -> None:
        """End; who still waits is told nothing more."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while self._waiting:
                for tenant in list(self._waiting):
                    await self._write_tenant(tenant, self._take(tenant))
        finally:
            self._writing = None

    def _take(self, tenant: TenantId) -> list[_Waiting]:
        """Take the first of each user; who logs in twice at once shares the run, in the next batch."""
        everybody = self._waiting.pop(tenant)
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

    async def _write_tenant(self, tenant: TenantId, batch: Sequence[_Waiting]) -> None:
        requests = [one.request for one in batch]
        if not requests:
            return
        self.batches += 1
        try:
            async with self.database.unit_of_work(tenant) as uow:
                users = [request.user for request in requests]
                accounts = await load_accounts(uow, users, requests[0].provider)
                raised = await raise_users(uow, requests, now=self.clock.now())
        except DatabaseUnavailable as error:
            _refuse(batch, error)
            return
        # The edge of a background task: whatever it is, those who wait have to be told.
        except Exception as error:
            _log.error("sync.logins_not_raised", logins=len(batch), exc_info=error)
            report_error(error, task="sync")
            _refuse(batch, error)
            return
        for one, answer in zip(batch, raised, strict=True):
            own = accounts.get(one.request.user)
            if not one.told.done():
                one.told.set_result(Asked(own[0] if own else None, answer))


def _refuse(batch: Sequence[_Waiting], error: Exception) -> None:
    for one in batch:
        if not one.told.done():
            one.told.set_exception(error)
