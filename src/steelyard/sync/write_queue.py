"""What syncs brought waits here for a moment: each tenant's results are written many at a time, tenants beside each other."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
import structlog

from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId
from steelyard.runtime.errors_out import report_error
from steelyard.sync.figures import SyncFigures
from steelyard.sync.model import Fetched, Finish, Lease
from steelyard.sync.rules import Cadence
from steelyard.sync.write_results import ResultWriter

_log = structlog.get_logger()

WRITTEN_AT_ONCE = 500
WRITERS = 4
AGAIN_S = 0.5


@dataclass(slots=True)
class WriteQueue:
    """No timer: a tenant's batch is what got ready while its last one was written.

    At most four tenants are written at once. A batch that fails for any reason but a lost connection (a row that
    somebody keeps locked, one that breaks a rule) is cut in halves until only what cannot be written is left out. What
    is locked is tried again until its lease ends.
    """

    writer: ResultWriter
    cadence_of: Callable[[TenantId, str], Cadence]
    tell: Callable[[TenantId, Sequence[Finish]], None]
    figures: SyncFigures
    size: int = 0
    """Results that are not written yet."""
    _ready: dict[TenantId, list[Fetched]] = field(default_factory=dict)
    _writing: dict[TenantId, asyncio.Task[None]] = field(default_factory=dict)
    _being_written: dict[TenantId, list[Fetched]] = field(default_factory=dict)
    _again: dict[asyncio.Task[None], Fetched] = field(default_factory=dict)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WRITERS))

    def put(self, fetched: Fetched) -> None:
        """Have one result written soon."""
        self.size += 1
        self._enqueue(fetched)

    def _enqueue(self, fetched: Fetched) -> None:
        tenant = fetched.lease.tenant
        self._ready.setdefault(tenant, []).append(fetched)
        if tenant not in self._writing:
            self._writing[tenant] = asyncio.create_task(self._write(tenant), name="sync.write")

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks at work; empty when everything is written."""
        return [*self._writing.values(), *self._again]

    def leases(self) -> list[Lease]:
        """Return the leases whose results are not written yet."""
        waiting = (*self._ready.values(), *self._being_written.values(), self._again.values())
        return [one.lease for results in waiting for one in results]

    async def _write(self, tenant: TenantId) -> None:
        try:
            while everything := self._ready.pop(tenant, None):
                batch, rest = everything[:WRITTEN_AT_ONCE], everything[WRITTEN_AT_ONCE:]
                if rest:
                    self._ready[tenant] = rest
                self._being_written[tenant] = batch
                await self._write_some(tenant, batch)
                del self._being_written[tenant]
        finally:
            self._writing.pop(tenant, None)

    async def _write_some(self, tenant: TenantId, results: Sequence[Fetched]) -> None:
        cadences = {
            one.lease.provider: self.cadence_of(tenant, one.lease.provider) for one in results
        }
        try:
            async with self._turns:
                accepted = await self.writer.write(tenant, results, cadences)
        except DatabaseUnavailable as error:
            self.size -= len(results)
            self.figures.lost += len(results)
            _log.warning("sync.not_written", results=len(results), reason=str(error))
        # The edge of a background task: the other results still have to be written.
        except Exception as error:
            half = len(results) // 2
            if half:
                await self._write_some(tenant, results[:half])
                await self._write_some(tenant, results[half:])
                return
            if isinstance(error, asyncpg.LockNotAvailableError) and self._is_held(results[0]):
                self._try_again(results[0])
                return
            self.size -= 1
            self.figures.lost += 1
            _log.error("sync.not_written", results=1, run=results[0].lease.run, exc_info=error)
            report_error(error, task="sync")
        else:
            self.size -= len(results)
            self.figures.late += sum(not one.is_ineligible for one in results) - len(accepted)
            self.tell(tenant, accepted)

    def _is_held(self, fetched: Fetched) -> bool:
        """Whether the lease leaves time to try again."""
        left_s = (fetched.lease.until - self.writer.clock.now()).total_seconds()
        return left_s > 2 * AGAIN_S

    def _try_again(self, fetched: Fetched) -> None:
        task = asyncio.create_task(self._wait_for(fetched), name="sync.write_again")
        self._again[task] = fetched

    async def _wait_for(self, fetched: Fetched) -> None:
        try:
            await asyncio.sleep(AGAIN_S)
            self._enqueue(fetched)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._again.pop(task, None)
