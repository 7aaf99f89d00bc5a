"""Our side of syncs: targets leased and completed by the product's own parts, with nothing asked in between.

In the path: the budget's row locked and judged, leases in flight counted, `lease_targets` with fencing and runs, the
worker's decision about each target's next moment, `finish_targets`. Not in the path, here as with the peer: reading the
users' accounts, the request to a source, writing balances.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from steelyard.cli.benchmarks.callers import Sample
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.sync_seed import PROVIDER
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.mirror.apply_readings import PublishReadings
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.database import Database
from steelyard.sync.lease_targets import Taker, lease_lane
from steelyard.sync.model import Fetched, Grant, Lane, Lease, Priority
from steelyard.sync.rules import Cadence
from steelyard.sync.run_targets import WRITTEN_AT_ONCE
from steelyard.sync.write_results import ResultWriter

LANE = Lane(DEFAULT_TENANT, PROVIDER)
LEASE_S = 30.0
REST = timedelta(days=1)


@dataclass(slots=True)
class Drain:
    """Leases and completes as a worker does: one batch after the other, results written while the next is leased.

    Args:
        database: A pool, as the product opens it.
        slots: Targets in flight at most.
        interval: Between two syncs of a target. Who logged in rests for a day.
        hear: Told of every lease.
    """

    database: Database
    slots: int
    interval: timedelta
    hear: Callable[[Sequence[Lease]], None] | None = None
    done: int = 0
    clock: SystemClock = field(default_factory=SystemClock)
    _in_flight: int = 0
    _ready: list[Fetched] = field(default_factory=list)
    _is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _is_free: asyncio.Event = field(default_factory=asyncio.Event)
    _is_over: bool = False

    async def run(self, seconds: float) -> Sample:
        """Drain for a while; then what is in flight is completed too.

        Raises:
            BenchmarkUnsound: Nothing was due any more, or a lease did not hold.
        """
        began_s, before = time.perf_counter(), self.done
        self._is_over = False
        writing = asyncio.create_task(self._write_all())
        leasing = asyncio.create_task(self._lease_until(began_s + seconds))
        try:
            await asyncio.wait({writing, leasing}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                await leasing
        finally:
            self._is_over = True
            self._is_ready.set()
            leasing.cancel()
            await asyncio.gather(leasing, return_exceptions=True)
            await writing
        took_s = time.perf_counter() - began_s
        done = self.done - before
        return Sample(done / took_s, 0.0, 0.0, done)

    def stop(self) -> None:
        """Lease nothing more, though the time is not over."""
        self._is_over = True

    async def _lease_until(self, ends_s: float) -> None:
        taker = Taker("bench", LEASE_S, self.clock)
        while time.perf_counter() < ends_s and not self._is_over:
            free = self.slots - self._in_flight
            if free <= 0:
                self._is_free.clear()
                await self._is_free.wait()
                continue
            taken = await lease_lane(self.database, LANE, taker, slots=Grant(free, free))
            if not taken.leases:
                raise BenchmarkUnsound(side="steelyard", problem="nothing was due any more")
            self.take(taken.leases)

    def take(self, leases: Sequence[Lease]) -> None:
        """Have leases completed."""
        if self.hear is not None:
            self.hear(leases)
        self._in_flight += len(leases)
        self._ready += [Fetched(lease, requests=1) for lease in leases]
        self._is_ready.set()

    async def _write_all(self) -> None:
        publish = PublishReadings(InProcessBus(), InProcessCache(self.clock))
        writer = ResultWriter(self.database, self.clock, publish)
        while self._ready or not self._is_over:
            if not self._ready:
                self._is_ready.clear()
                await self._is_ready.wait()
                continue
            batch, self._ready = self._ready[:WRITTEN_AT_ONCE], self._ready[WRITTEN_AT_ONCE:]
            logins = [one for one in batch if one.lease.priority == Priority.LOGIN]
            others = [one for one in batch if one.lease.priority != Priority.LOGIN]
            for results, interval in ((others, self.interval), (logins, REST)):
                if results:
                    accepted = await writer.write(DEFAULT_TENANT, results, _cadence(interval))
                    if len(accepted) != len(results):
                        raise BenchmarkUnsound(side="steelyard", problem="a lease did not hold")
            self.done += len(batch)
            self._in_flight -= len(batch)
            self._is_free.set()


def _cadence(interval: timedelta) -> dict[str, Cadence]:
    """Return one interval for all, however many they are: tiers are another matter."""
    return {PROVIDER: Cadence(interval, 0)}


async def drain_side_by_side(drains: Sequence[Drain], seconds: float) -> Sample:
    """Let several workers drain the same targets and return what they did together.

    Raises:
        BenchmarkUnsound: As `Drain.run`.
    """
    began_s = time.perf_counter()
    samples = await asyncio.gather(*(drain.run(seconds) for drain in drains))
    done = sum(one.done for one in samples)
    return Sample(done / (time.perf_counter() - began_s), 0.0, 0.0, done)
