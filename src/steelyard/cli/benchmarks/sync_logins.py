"""Logins of `bench sync`: from asking to the lease, while the background drains."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import cycle

from steelyard.cli.benchmarks.callers import Sample, sample_of
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.sync_drain import LANE, LEASE_S, Drain
from steelyard.cli.benchmarks.sync_seed import PROVIDER
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.database import Database
from steelyard.sync.lease_targets import Taker, lease_lane
from steelyard.sync.model import Grant, Lease, Priority
from steelyard.sync.raise_logins import LoginRaiser
from steelyard.sync.raise_target import SyncRequest

AT_ONCE_AGAIN = timedelta(milliseconds=1)
"""The background is due again as soon as it is done, so that as many stay due as there were."""
LOGIN_SLOTS = 16
LEASED_WITHIN_S = 30.0


@dataclass(slots=True)
class Logins:
    """Logins at a steady rate on one database, whose background is drained meanwhile.

    Args:
        database: A pool, as the product opens it.
        slots: Of the background's worker.
        users: Who logs in, again and again; nothing of them is due.
        per_s: How many a second.
    """

    database: Database
    slots: int
    users: Sequence[str]
    per_s: float
    clock: SystemClock = field(default_factory=SystemClock)
    _leased: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _is_over: bool = False
    _next: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the first user."""
        self._next = cycle(self.users)

    async def run(self, seconds: float) -> Sample:
        """Log users in for a while. A login's time is from asking to its lease, whichever worker took it.

        Raises:
            BenchmarkUnsound: One was refused or not leased within 30 s.
        """
        drain = Drain(self.database, self.slots, AT_ONCE_AGAIN, hear=self._hear)
        raiser = LoginRaiser(self.database, self.clock)
        self._is_over = False
        draining = asyncio.create_task(drain.run(seconds + LEASED_WITHIN_S))
        leasing = asyncio.create_task(self._lease_logins(drain))
        began_s, took_s = time.perf_counter(), list[float]()
        try:
            asking: list[asyncio.Task[None]] = []
            for number in range(int(seconds * self.per_s)):
                wait_s = began_s + number / self.per_s - time.perf_counter()
                await asyncio.sleep(max(0.0, wait_s))
                asking.append(asyncio.create_task(self._log_in(raiser, took_s)))
            await asyncio.gather(*asking)
        finally:
            self._is_over = True
            self._wake.set()
            await leasing
            drain.stop()
            await draining
            await raiser.close()
        return sample_of(took_s, time.perf_counter() - began_s)

    async def _log_in(self, raiser: LoginRaiser, took_s: list[float]) -> None:
        user = next(self._next)
        leased: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leased[user] = leased
        began_s = time.perf_counter()
        request = SyncRequest(UserId(user), PROVIDER, Priority.LOGIN)
        raised = await raiser.ask(DEFAULT_TENANT, request)
        if raised.run is None:
            problem = f"a login was refused: {raised.reason}"
            raise BenchmarkUnsound(side="steelyard", problem=problem)
        self._wake.set()
        try:
            async with asyncio.timeout(LEASED_WITHIN_S):
                await leased
        except TimeoutError:
            raise BenchmarkUnsound(side="steelyard", problem="a login was not leased") from None
        took_s.append(time.perf_counter() - began_s)

    async def _lease_logins(self, drain: Drain) -> None:
        """Lease at once what was asked for, as the worker of the process that was asked does."""
        taker = Taker("login", LEASE_S, self.clock)
        while not self._is_over:
            await self._wake.wait()
            self._wake.clear()
            slots = Grant(LOGIN_SLOTS, 0)
            taken = await lease_lane(self.database, LANE, taker, slots=slots)
            drain.take(taken.leases)

    def _hear(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            leased = self._leased.pop(lease.subject, None)
            if leased is not None and not leased.done():
                leased.set_result(None)
