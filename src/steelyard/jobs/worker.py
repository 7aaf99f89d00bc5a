"""A process's part in jobs: it hands over what is due, works, gives signs of life, and takes jobs from silent workers."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.jobs.model import State
from steelyard.jobs.port import JobEngine
from steelyard.jobs.run_jobs import JobRunner
from steelyard.jobs.store import queue
from steelyard.runtime.database import Database
from steelyard.runtime.repeat import repeat

HANDED_AT_ONCE: Final = 500
RESCUED_AT_ONCE: Final = 500
LOSSES_MAX: Final = 5
"""Workers that may die over a job before it is a dead letter: it may be what kills them."""
HAND_OVER_PAUSE_S: Final = 0.01
SLEEPER_PAUSE_S: Final = 0.5
WORKERS_KEPT: Final = timedelta(hours=1)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobPlan:
    """How a worker works.

    Args:
        slots: Jobs at once.
        look_every_s: Longest a job that is due waits to be handed to the engine.
        again_s: A job handed over that nobody began is handed over again after this time.
        beat_every_s: Between two signs of life.
        stalled_s: A worker that gave no sign of life for so long has lost its jobs.
        drain_s: How long jobs under way are waited for when the worker ends; then they are handed back.
    """

    slots: int = 8
    look_every_s: float = 1.0
    again_s: float = 15.0
    beat_every_s: float = 5.0
    stalled_s: float = 15.0
    drain_s: float = 20.0


@dataclass(slots=True)
class JobWorker:
    """One worker; any number of processes may run one on the same database."""

    database: Database
    clock: Clock
    engine: JobEngine
    runner: JobRunner
    plan: JobPlan
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _working: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Look at once: something was asked for."""
        self._wake.set()

    async def start(self) -> None:
        """Begin to work, after the first sign of life.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        await self.runner.beat()
        turns = (
            ("jobs.hand_over", self._hand_over, HAND_OVER_PAUSE_S),
            ("jobs.beat", self.runner.beat, self.plan.beat_every_s),
            ("jobs.rescue", self.rescue, self.plan.beat_every_s),
        )
        self._tasks = [
            asyncio.create_task(repeat(name, act, every_s=every_s), name=name)
            for name, act, every_s in turns
        ]
        self._working = asyncio.create_task(
            self.engine.work(self._kinds, self.runner.deliver, slots=self.plan.slots),
            name="jobs.work",
        )

    async def stop(self) -> None:
        """Begin nothing more, wait for what is under way, for at most `drain_s`, and hand the rest back."""
        [hand_over, *others] = self._tasks
        await _end([hand_over])
        await self.engine.stop()
        assert self._working is not None, "it was started"
        await asyncio.wait({self._working}, timeout=self.plan.drain_s)
        if not self._working.done():
            self.runner.end_all()
            await asyncio.wait({self._working}, timeout=self.plan.beat_every_s)
        await _end([self._working, *others])
        with contextlib.suppress(DatabaseUnavailable):  # it falls silent instead
            await queue.leave(self.database, self.runner.worker)

    async def hand_over_once(self) -> int:
        """Hand what is due to the engine, as much as it has room for. Returns how many jobs."""
        handed = 0
        while limit := min(await self.engine.room(), HANDED_AT_ONCE):
            tickets = await queue.hand_over(
                self.database,
                self._kinds,
                limit=limit,
                again=timedelta(seconds=self.plan.again_s),
                now=self.clock.now(),
            )
            if tickets:
                await self.engine.enqueue_many(tickets)
            handed += len(tickets)
            if len(tickets) < limit:
                break
        return handed

    async def rescue(self) -> None:
        """Take jobs from workers that gave no sign of life, and count all jobs.

        Raises:
            DatabaseUnavailable: The database did not answer.
        """
        stalled, now = timedelta(seconds=self.plan.stalled_s), self.clock.now()
        rescued = await self._take_stalled(stalled)
        if ended := await queue.end_sleepers(self.database, stalled=stalled, now=now):
            _log.warning("jobs.sleepers_ended", connections=ended)
            await asyncio.sleep(SLEEPER_PAUSE_S)
            rescued += await self._take_stalled(stalled)
        if rescued:
            self.wake()
        await self.engine.rescue(stalled=2 * stalled)
        await queue.forget_workers(self.database, silent_since=now - WORKERS_KEPT)
        self.runner.figures.jobs = await queue.count_jobs(self.database, now=now)

    async def _take_stalled(self, stalled: timedelta) -> int:
        rescued = await queue.rescue(
            self.database,
            stalled=stalled,
            losses_max=LOSSES_MAX,
            limit=RESCUED_AT_ONCE,
            now=self.clock.now(),
        )
        figures = self.runner.figures
        for tenant, run, kind, worker, state in rescued:
            figures.rescued += 1
            if state is State.FAILED:
                figures.failed[kind] += 1
            _log.warning(
                "jobs.rescued", tenant=tenant, run=run, kind=kind, worker=worker, state=state
            )
        return len(rescued)

    @property
    def _kinds(self) -> Sequence[str]:
        return self.runner.kinds.names

    async def _hand_over(self) -> None:
        self._wake.clear()
        await self.hand_over_once()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.plan.look_every_s):
                await self._wake.wait()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
