"""Kills processes of the system under test and of its database, at random, always while they work."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.crash.postgres import PostgresUnderFire
from tests.crash.target import Target
from tests.world import FreshDatabase

# A process is struck only when it has answered this many orders since the last time and works on some now.
ANSWERS_BEFORE = 20
BUSY_DEADLINE_S = 60.0
WAYS = ("postmaster", "immediate stop", "backend")
"""How PostgreSQL dies: SIGKILL of its main process, `pg_ctl -m immediate`, SIGKILL of one backend at work."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often what is killed. Seconds between two blows, at random from half to one and a half of them."""

    api_every_s: float | None = 1.2
    database_every_s: float | None = 4.0
    connections_every_s: float | None = None


@dataclass(slots=True)
class Killer:
    """Strikes until it is cancelled or the pace ends, then leaves everything running."""

    target: Target
    postgres: PostgresUnderFire
    fresh: FreshDatabase
    seed: int
    schedule: Schedule
    goes_on: Callable[[], bool]
    api_kills: int = 0
    postgres_kills: dict[str, int] = field(default_factory=dict)
    cuts: int = 0
    """How often connections were ended by `pg_terminate_backend`: all that a server that is not ours gets."""
    _ways: list[str] = field(default_factory=list)

    def has_struck(self, least: int) -> bool:
        """Whether each side was struck at least so often."""
        killed = sum(self.postgres_kills.values()) if self.postgres.can_be_killed else self.cuts
        return self.api_kills >= least and killed >= least

    async def run(self) -> None:
        """Strike on every schedule until the pace ends."""
        plan = (
            (self.schedule.api_every_s, self._strike_api),
            (self.schedule.database_every_s, self._strike_database),
            (self.schedule.connections_every_s, self._cut_connections),
        )
        async with asyncio.TaskGroup() as group:
            for number, (every_s, strike) in enumerate(plan):
                if every_s is not None:
                    dice = random.Random(f"{self.seed}/killer/{number}")
                    group.create_task(self._strike_every(every_s, strike, dice))

    async def _strike_every(
        self,
        every_s: float,
        strike: Callable[[random.Random], Awaitable[None]],
        dice: random.Random,
    ) -> None:
        while self.goes_on():
            await asyncio.sleep(every_s * dice.uniform(0.5, 1.5))
            if self.goes_on():
                await strike(dice)

    async def _strike_api(self, dice: random.Random) -> None:
        process = dice.randrange(len(self.target.processes))
        if await self._wait_busy([process]):
            self.api_kills += 1
            await self.target.kill(process)

    async def _strike_database(self, dice: random.Random) -> None:
        if not self.postgres.can_be_killed:
            await self._cut_connections(dice)
            return
        if not await self._wait_busy(range(len(self.target.processes))):
            return
        if not self._ways:
            self._ways = dice.sample(WAYS, len(WAYS))
        name = self._ways.pop()
        if name == "postmaster":
            await self.postgres.kill_postmaster()
        elif name == "immediate stop":
            await self.postgres.stop_immediately()
        elif not await self.postgres.kill_backend():
            return
        self.postgres_kills[name] = self.postgres_kills.get(name, 0) + 1

    async def _cut_connections(self, dice: random.Random) -> None:
        if await self._wait_busy(
            range(len(self.target.processes))
        ) and await self.postgres.terminate_backends(self.fresh.name):
            self.cuts += 1

    async def _wait_busy(self, processes: "range | list[int]") -> bool:
        """Wait until each of these has answered orders since now and works on one; False when the load ends first."""
        before = list(self.target.answered)
        until = time.monotonic() + BUSY_DEADLINE_S
        while self.goes_on():
            if all(
                self.target.answered[one] >= before[one] + ANSWERS_BEFORE
                and self.target.in_flight[one]
                for one in processes
            ):
                return True
            if time.monotonic() > until:
                raise AssertionError(
                    f"processes {list(processes)} did not answer for {BUSY_DEADLINE_S} s"
                )
            await asyncio.sleep(0.001)
        return False
