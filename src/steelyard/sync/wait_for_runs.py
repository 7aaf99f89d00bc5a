"""Waiting for runs to end: many who wait are one question to the database, however many processes work."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId
from steelyard.runtime.database import Database
from steelyard.sync import store
from steelyard.sync.model import RunState

Place = tuple[TenantId, int]


@dataclass(slots=True)
class RunWaiter:
    """Hears of ends from workers of this process at once, of others by asking every `ask_every_s`."""

    database: Database
    ask_every_s: float = 0.025
    _waiting: dict[Place, set[asyncio.Future[RunState]]] = field(default_factory=dict)
    _abandoned: dict[TenantId, set[int]] = field(default_factory=lambda: defaultdict(set))
    _asking: asyncio.Task[None] | None = None

    async def wait(self, tenant: TenantId, run: int) -> RunState:
        """Return how a run ended. Who gives up (cancels) is no longer waited for: its target makes way."""
        ended: asyncio.Future[RunState] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault((tenant, run), set())
        waiting.add(ended)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="sync.wait_for_runs")
        try:
            return await ended
        except asyncio.CancelledError:
            self._abandoned[tenant].add(run)
            raise
        finally:
            waiting.discard(ended)
            if not waiting:
                self._waiting.pop((tenant, run), None)

    def tell(self, tenant: TenantId, states: Sequence[RunState]) -> None:
        """Tell those who wait of runs; what has not ended is passed by."""
        for one in states:
            if one.state.is_final:
                for ended in self._waiting.get((tenant, one.run), ()):
                    if not ended.done():
                        ended.set_result(one)

    async def close(self) -> None:
        """Ask no more; who waits still goes on waiting until its own deadline."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        while self._waiting or any(self._abandoned.values()):
            await asyncio.sleep(self.ask_every_s)
            wanted: dict[TenantId, set[int]] = defaultdict(set)
            for tenant, run in self._waiting:
                wanted[tenant].add(run)
            for tenant in wanted.keys() | self._abandoned.keys():
                try:
                    await self._ask_tenant(tenant, wanted[tenant])
                except DatabaseUnavailable:
                    continue  # those who wait have deadlines of their own

    async def _ask_tenant(self, tenant: TenantId, runs: set[int]) -> None:
        left = self._abandoned.pop(tenant, set()) - runs  # somebody else still waits for the others
        async with self.database.unit_of_work(tenant) as uow:
            if left:
                await store.lower_waited(uow, sorted(left))
            states = await store.load_run_states(uow, sorted(runs)) if runs else []
        self.tell(tenant, states)
