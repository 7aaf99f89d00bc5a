"""A login's sync: the fresh balance if it comes in time, else the stored one, and the sync goes on."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId, UserId
from steelyard.mirror.model import MirroredAccount
from steelyard.mirror.store import load_accounts
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.sync.model import Priority, Reason, State, SyncResult
from steelyard.sync.raise_logins import LoginRaiser
from steelyard.sync.raise_target import SyncRequest
from steelyard.sync.wait_for_runs import RunWaiter


@dataclass(slots=True)
class LoginSync:
    """Serves logins at one source. `timeout_s` is the total a login may wait, whatever hangs."""

    database: Database
    clock: Clock
    waiter: RunWaiter
    provider: str
    timeout_s: float = 2.0
    on_raised: Callable[[], None] = lambda: None
    """Told at once, so that a worker of this process looks."""
    raiser: LoginRaiser = field(init=False)
    _left: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Gather logins that come together."""
        self.raiser = LoginRaiser(self.database, self.clock)

    async def sync_with_timeout(
        self, tenant: TenantId, user: UserId, *, token_hash: bytes | None = None
    ) -> SyncResult:
        """Answer with the balance of the user's primary mirrored account, within `timeout_s` in all.

        `ok`: it was read after this call. Otherwise it is the stored one with its `as_of`, or None, with a reason; the
        sync goes on unless the user may not be synced. Never raises for trouble of the source.

        Raises:
            DatabaseUnavailable: The database did not answer, and nothing is known of the user.
        """
        attempt = _Attempt(self, tenant, user, token_hash)
        task = asyncio.create_task(attempt.run(), name="sync.login")
        try:
            await asyncio.wait({task}, timeout=self.timeout_s)
        finally:
            if not task.done():
                # Not waited for: a query that hangs would make the login wait as well.
                task.cancel()
                self._left.add(task)
                task.add_done_callback(self._forget)
        if task.done():
            task.result()
            return attempt.answer
        return replace(attempt.answer, ok=False, reason=attempt.answer.reason or Reason.TIMEOUT)

    async def close(self) -> None:
        """Wait for what was given up to have ended."""
        await self.raiser.close()
        await asyncio.gather(*self._left, return_exceptions=True)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # the login was answered without it


@dataclass(slots=True)
class _Attempt:
    """One login; `answer` is always the best that is known."""

    sync: LoginSync
    tenant: TenantId
    user: UserId
    token_hash: bytes | None
    answer: SyncResult = field(default_factory=lambda: SyncResult(ok=False))

    async def run(self) -> None:
        sync = self.sync
        request = SyncRequest(self.user, sync.provider, Priority.LOGIN, token_hash=self.token_hash)
        asked = await sync.raiser.ask(self.tenant, request)
        raised = asked.raised
        if asked.stored is not None:
            self.answer = _known(self.answer, asked.stored)
        self.answer = replace(
            self.answer, queued=raised.run is not None, run_id=raised.run, reason=raised.reason
        )
        if raised.run is None:
            return
        sync.on_raised()
        ended = await sync.waiter.wait(self.tenant, raised.run)
        try:
            async with sync.database.unit_of_work(self.tenant) as uow:
                await self._load(uow)
        except DatabaseUnavailable:
            self.answer = replace(self.answer, queued=False, reason=Reason.FAILED)
            return
        is_fresh = ended.state is State.COMPLETED
        reason = None if is_fresh else Reason.FAILED
        self.answer = replace(self.answer, ok=is_fresh, queued=False, reason=reason)

    async def _load(self, uow: UnitOfWork) -> None:
        accounts = await load_accounts(uow, [self.user], self.sync.provider)
        if own := accounts.get(self.user):
            self.answer = _known(self.answer, own[0])


def _known(answer: SyncResult, primary: MirroredAccount) -> SyncResult:
    """Return the answer with what is stored; an account that was never read has no balance yet."""
    return replace(
        answer,
        balance=None if primary.read_at is None else primary.posted,
        as_of=primary.read_at,
        currency=primary.currency,
        account=primary.account,
    )
