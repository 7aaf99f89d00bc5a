"""Waiting for runs: many who wait are one question to the database, however many processes work."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import AccountId, TenantId
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.model import RunState

Place = tuple[TenantId, int]


@dataclass(slots=True, eq=False)
class _Waiting:
    account: AccountId | None
    told: asyncio.Future[RunState]


@dataclass(slots=True)
class RunWaiter:
    """Hears at once from workers of this process, of others by asking every `ask_every_s`."""

    database: Database
    ask_every_s: float = 0.025
    _waiting: dict[Place, set[_Waiting]] = field(default_factory=dict)
    _asking: asyncio.Task[None] | None = None

    async def wait(self, tenant: TenantId, run: int, account: AccountId | None = None) -> RunState:
        """Return where the run stands when it has ended, or has read `account` before that."""
        one = _Waiting(account, asyncio.get_running_loop().create_future())
        waiting = self._waiting.setdefault((tenant, run), set())
        waiting.add(one)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="sync.wait_for_runs")
        try:
            return await one.told
        finally:
            waiting.discard(one)
            if not waiting:
                self._waiting.pop((tenant, run), None)

    def tell(self, tenant: TenantId, states: Sequence[RunState]) -> None:
        """Tell those who wait of runs; what has not ended, or not read their account, is passed by."""
        for state in states:
            for one in self._waiting.get((tenant, state.run), ()):
                if not one.told.done() and (state.state.is_final or one.account in state.read):
                    one.told.set_result(state)

    async def close(self) -> None:
        """Ask no more; who waits still goes on waiting until its own deadline."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        while self._waiting:
            await asyncio.sleep(self.ask_every_s)
            wanted: dict[TenantId, set[int]] = defaultdict(set)
            for tenant, run in self._waiting:
                wanted[tenant].add(run)
            for tenant, runs in wanted.items():
                try:
                    await self._ask_tenant(tenant, runs)
                except (DatabaseUnavailable, asyncpg.PostgresError):
                    continue  # those who wait have deadlines of their own

    async def _ask_tenant(self, tenant: TenantId, runs: set[int]) -> None:
        async with self.database.unit_of_work(tenant) as uow:
            states = await store.load_run_states(uow, sorted(runs))
        self.tell(tenant, states)
