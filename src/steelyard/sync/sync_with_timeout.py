"""A login's sync: the fresh balance if it comes in time, else the stored one, and the sync goes on."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId, UserId
from steelyard.mirror.model import MirroredAccount
from steelyard.mirror.store import load_accounts
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.sync import store
from steelyard.sync.figures import SyncFigures
from steelyard.sync.model import Priority, Reason, RunState, State, SyncResult
from steelyard.sync.raise_logins import LoginRaiser
from steelyard.sync.raise_target import SyncRequest
from steelyard.sync.wait_for_runs import RunWaiter

LOWER_EVERY_S: Final = 0.025
LOWER_TIMES: Final = 8


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
    figures: SyncFigures = field(default_factory=SyncFigures)
    raiser: LoginRaiser = field(init=False)
    _lowering: dict[TenantId, int] = field(default_factory=dict)
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
        began_s = self.clock.monotonic_s()
        until = self.clock.now() + timedelta(seconds=self.timeout_s)
        attempt = _Attempt(self, tenant, user, token_hash, until)
        task = asyncio.create_task(attempt.run(), name="sync.login")
        try:
            await asyncio.wait({task}, timeout=self.timeout_s)
        finally:
            if not task.done():
                # Not waited for: a query that hangs would make the login wait as well.
                task.cancel()
                self._keep(task)
                self._give_up(tenant)
        answer = attempt.answer
        if task.done():
            task.result()
        else:
            answer = replace(answer, ok=False, reason=answer.reason or Reason.TIMEOUT)
        self.figures.note_login(answer, self.clock.monotonic_s() - began_s)
        return answer

    async def close(self) -> None:
        """Wait for what was given up to have ended."""
        await self.raiser.close()
        await asyncio.gather(*self._left, return_exceptions=True)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._left.add(task)
        task.add_done_callback(self._forget)

    def _give_up(self, tenant: TenantId) -> None:
        """Let what nobody waits for any more make way, soon: its `waited_until` is about now."""
        if not self._lowering:
            self._keep(asyncio.create_task(self._lower(), name="sync.lower_logins"))
        self._lowering[tenant] = LOWER_TIMES

    async def _lower(self) -> None:
        try:
            while self._lowering:
                await asyncio.sleep(LOWER_EVERY_S)
                for tenant in list(self._lowering):
                    try:
                        async with self.database.unit_of_work(tenant) as uow:
                            await store.lower_waited(uow, now=self.clock.now())
                    except (DatabaseUnavailable, asyncpg.PostgresError):
                        pass  # a worker does it within a second
                    self._lowering[tenant] -= 1
                    if self._lowering[tenant] <= 0:
                        del self._lowering[tenant]
        finally:
            self._lowering.clear()

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
    until: datetime
    answer: SyncResult = field(default_factory=lambda: SyncResult(ok=False))

    async def run(self) -> None:
        sync = self.sync
        request = SyncRequest(
            self.user,
            sync.provider,
            Priority.LOGIN,
            token_hash=self.token_hash,
            waited_until=self.until,
        )
        raised = await sync.raiser.ask(self.tenant, request, self._learn)
        self.answer = replace(
            self.answer, queued=raised.run is not None, run_id=raised.run, reason=raised.reason
        )
        if raised.run is None:
            return
        sync.on_raised()
        while not await self._is_answered(raised.run):
            pass  # the run goes on: another account than the primary one was read

    async def _is_answered(self, run: int) -> bool:
        """Wait for the run to read the primary account, or to end; keep what is known then."""
        reached = await self.sync.waiter.wait(self.tenant, run, self.answer.account)
        try:
            async with self.sync.database.unit_of_work(self.tenant) as uow:
                await self._load(uow)
        except DatabaseUnavailable:
            self.answer = replace(self.answer, queued=False, reason=Reason.FAILED)
            return True
        is_fresh = self.answer.account in reached.read
        if not is_fresh and not reached.state.is_final:
            return False  # which account is the primary one changed meanwhile
        self.answer = replace(
            self.answer,
            ok=is_fresh,
            queued=not reached.state.is_final,
            reason=None if is_fresh else _reason_of(reached),
        )
        return True

    def _learn(self, stored: MirroredAccount | None) -> None:
        if stored is not None:
            self.answer = _known(self.answer, stored)

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


def _reason_of(ended: RunState) -> Reason:
    return Reason.CANCELLED if ended.state is State.CANCELLED else Reason.FAILED
