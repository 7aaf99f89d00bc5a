"""The worker: begins jobs, gives signs of life while they run, writes how each attempt ended."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

import structlog

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, Overloaded
from steelyard.core.ids import TenantId
from steelyard.jobs.cancel_run import CANCELLED_CODE
from steelyard.jobs.errors import JobTimeout, LeaseLost
from steelyard.jobs.hold_job import JobHold
from steelyard.jobs.model import HandledKind, Kinds, RunContext, State
from steelyard.jobs.port import Ticket
from steelyard.jobs.rules import UNCLASSIFIED, Decision, Failure, Series, decide, failure_of
from steelyard.jobs.store import queue
from steelyard.jobs.store.queue import Claim, Kept
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.runtime.errors_out import report_error

WRITE_TRIES: Final = 15
WRITE_PAUSE_S: Final = 0.25
WRITE_PAUSE_MAX_S: Final = 5.0
CANCEL_PAUSE_S: Final = 5.0
ASLEEP_S: Final = 10.0

_log = structlog.get_logger()


class Leave(StrEnum):
    """Why an attempt is ended from outside."""

    LOST = "lost"
    CANCELLED = "cancelled"
    STOPPING = "stopping"


@dataclass(slots=True)
class JobFigures:
    """What a process counts of its jobs."""

    completed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """Dead letters made, by kind."""
    retried: Counter[str] = field(default_factory=Counter)
    cancelled: Counter[str] = field(default_factory=Counter)
    rescued: int = 0
    """Jobs taken from workers that gave no sign of life."""
    lost: int = 0
    """Attempts of this process whose job another worker has by now, or whose end could not be written."""
    jobs: Mapping[str, queue.JobCounts] = field(default_factory=dict)
    """Of the whole installation, as last counted."""


@dataclass(slots=True)
class _Attempt:
    claim: Claim
    hold: JobHold
    task: asyncio.Task[Mapping[str, object]]
    leave: Leave | None = None

    def end(self, leave: Leave) -> None:
        """End it from outside; the first reason stands."""
        self.leave = self.leave or leave
        self.task.cancel()


@dataclass(slots=True)
class JobRunner:
    """Runs the jobs that are delivered to this process."""

    database: Database
    clock: Clock
    kinds: Kinds
    worker: str
    figures: JobFigures = field(default_factory=JobFigures)
    _attempts: dict[tuple[TenantId, int], _Attempt] = field(default_factory=dict)
    _claiming: list[tuple[TenantId, int]] = field(default_factory=list)
    _beaten_s: float | None = None

    @property
    def active(self) -> int:
        """Attempts under way."""
        return len(self._attempts)

    async def beat(self) -> None:
        """Give a sign of life, and end attempts whose job another worker has or whose end was asked for.

        Raises:
            DatabaseUnavailable: The database did not answer.
        """
        claims = [attempt.claim for attempt in self._attempts.values()]
        working_on = [*self._attempts, *self._claiming]
        now = self.clock.now()
        leave = await queue.beat(self.database, self.worker, claims, working_on, now=now)
        self._beaten_s = self.clock.monotonic_s()
        for claim, is_held in leave:
            attempt = self._attempts.get((claim.tenant, claim.run))
            if attempt is not None and attempt.claim is claim:
                attempt.end(Leave.CANCELLED if is_held else Leave.LOST)

    def end_all(self) -> None:
        """End every attempt; their jobs wait for another worker."""
        for attempt in self._attempts.values():
            attempt.end(Leave.STOPPING)

    async def deliver(self, ticket: Ticket) -> None:
        """Begin the job of a ticket and see it to the end of this attempt; pass by one that is not to be begun."""
        place = (ticket.tenant, ticket.run)
        self._claiming.append(place)
        try:
            claim = await self._claim(ticket)
            if claim is not None:
                await self._run(claim, self.kinds.get(claim.kind))
        except (DatabaseUnavailable, Overloaded) as error:
            _log.warning("jobs.not_begun", run=ticket.run, kind=ticket.kind, reason=str(error))
        # The edge of a background task: what one ticket raises must not end the others; it is handed over again.
        except Exception as error:
            _log.error("jobs.not_begun", run=ticket.run, kind=ticket.kind, exc_info=error)
            report_error(error, task="jobs")
        finally:
            self._claiming.remove(place)

    async def _claim(self, ticket: Ticket) -> Claim | None:
        """Begin the job, after a sign of life if the last one is old: this process may have been asleep."""
        asleep_s = self.clock.monotonic_s() - (self._beaten_s or 0.0)
        if self._beaten_s is None or asleep_s > ASLEEP_S:
            await self.beat()
        async with self.database.unit_of_work(ticket.tenant) as uow:
            now = self.clock.now()
            return await queue.claim_job(uow, ticket.run, worker=self.worker, now=now)

    async def _run(self, claim: Claim, handled: HandledKind) -> None:
        hold = JobHold(claim, self.database, self.clock)
        context = RunContext(
            tenant=claim.tenant,
            run=claim.run,
            subject=claim.subject,
            arguments=claim.arguments,
            attempt=claim.attempt,
            clock=self.clock,
            database=self.database,
            hold=hold,
            planned_for=claim.planned_for,
            schedule=claim.schedule,
        )
        task = asyncio.create_task(_handle(handled, context), name=f"jobs.run {claim.kind}")
        attempt = _Attempt(claim, hold, task)
        place = (claim.tenant, claim.run)
        self._attempts[place] = attempt
        _log.info("jobs.began", run=claim.run, kind=claim.kind, attempt=claim.attempt)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            attempt.end(Leave.STOPPING)
            await asyncio.wait({task}, timeout=CANCEL_PAUSE_S)
        try:
            await self._conclude(attempt, handled)
        # The edge of a background task: a job whose end cannot be written is left by its worker and rescued.
        except Exception as error:
            self.figures.lost += 1
            _log.error("jobs.not_concluded", run=claim.run, kind=claim.kind, exc_info=error)
            report_error(error, task="jobs")
        finally:
            del self._attempts[place]

    async def _conclude(self, attempt: _Attempt, handled: HandledKind) -> None:
        task = attempt.task
        if task.done() and not task.cancelled() and task.exception() is None:
            await self._conclude_done(attempt, task.result())
        elif attempt.leave in (Leave.LOST, Leave.CANCELLED):
            await self._conclude_lost(attempt)
        elif attempt.leave is Leave.STOPPING:
            await self._conclude_stopped(attempt)
        else:
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            assert error is not None, "an attempt that did not end well has an error"
            if isinstance(error, LeaseLost):
                await self._conclude_lost(attempt)
            else:
                await self._conclude_failed(attempt, handled, error)

    async def _conclude_done(self, attempt: _Attempt, result: Mapping[str, object]) -> None:
        claim = attempt.claim

        async def end(uow: UnitOfWork) -> bool:
            now = self.clock.now()
            return await queue.end_job(uow, claim, State.COMPLETED, result=result, now=now)

        if await self._write(claim, end) or attempt.hold.is_completed:
            self._tell_completed(claim)
        else:
            self._tell_lost(claim)

    def _tell_completed(self, claim: Claim) -> None:
        self.figures.completed[claim.kind] += 1
        _log.info("jobs.completed", run=claim.run, kind=claim.kind, attempt=claim.attempt)

    def _tell_lost(self, claim: Claim) -> None:
        self.figures.lost += 1
        _log.warning("jobs.lost", run=claim.run, kind=claim.kind, attempt=claim.attempt)

    async def _conclude_lost(self, attempt: _Attempt) -> None:
        """End the run as cancelled if the job is still ours: its end was asked for. Else another worker has it."""
        claim = attempt.claim
        error = {"code": CANCELLED_CODE, "message": "it was cancelled while it ran"}

        async def end(uow: UnitOfWork) -> bool:
            now = self.clock.now()
            return await queue.end_job(uow, claim, State.CANCELLED, error=error, now=now)

        if await self._write(claim, end):
            self.figures.cancelled[claim.kind] += 1
            _log.info("jobs.cancelled", run=claim.run, kind=claim.kind)
        else:
            self._tell_lost(claim)

    async def _conclude_stopped(self, attempt: _Attempt) -> None:
        claim = attempt.claim

        async def keep(uow: UnitOfWork) -> bool:
            now = self.clock.now()
            return await queue.keep_job(uow, claim, Kept(State.RETRYING, now, 1), now=now)

        if await self._write(claim, keep):
            _log.info("jobs.handed_back", run=claim.run, kind=claim.kind)
        else:
            await self._conclude_lost(attempt)

    async def _conclude_failed(
        self, attempt: _Attempt, handled: HandledKind, error: BaseException
    ) -> None:
        claim, kind, failure = attempt.claim, handled.kind, failure_of(error)
        if failure.code == UNCLASSIFIED:
            _log.error("jobs.unforeseen", run=claim.run, kind=claim.kind, exc_info=error)
            report_error(error, task=f"job {claim.kind}")
        series = Series(
            claim.run, claim.attempt, claim.attempts_max, kind.delay_s, kind.is_exponential
        )
        decision = decide(failure, series)
        kept = self._kept_of(claim, failure, decision)

        async def keep(uow: UnitOfWork) -> bool:
            return await queue.keep_job(uow, claim, kept, now=self.clock.now())

        if await self._write(claim, keep):
            self._tell_decision(claim, failure, decision)
        else:
            await self._conclude_lost(attempt)

    def _tell_decision(self, claim: Claim, failure: Failure, decision: Decision) -> None:
        counts = self.figures.failed if decision.state is State.FAILED else self.figures.retried
        counts[claim.kind] += 1
        _log.info(
            "jobs.retry_decided",
            run=claim.run,
            kind=claim.kind,
            attempt=claim.attempt,
            attempts_max=claim.attempts_max,
            category=failure.category,
            code=failure.code,
            state=decision.state,
            because=decision.because,
            delay_s=round(decision.delay_s, 3),
        )

    def _kept_of(self, claim: Claim, failure: Failure, decision: Decision) -> Kept:
        result: dict[str, object] | None = None
        if decision.state is State.FAILED:
            result = {"success": False, "error": failure.message}
        return Kept(
            decision.state,
            self.clock.now() + timedelta(seconds=decision.delay_s),
            result=result,
            error={"code": failure.code, "message": failure.message, "attempt": claim.attempt},
            category=failure.category,
        )

    async def _write(self, claim: Claim, act: Callable[[UnitOfWork], Awaitable[bool]]) -> bool:
        """Write an end; while the database is away try again, for about a minute. Whether the job was still ours.

        Raises:
            DatabaseUnavailable: It stayed away. The job is found without its worker and rescued.
        """
        for tried in range(WRITE_TRIES):
            try:
                async with self.database.unit_of_work(claim.tenant) as uow:
                    return await act(uow)
            except DatabaseUnavailable as error:
                if tried == 0:
                    _log.warning("jobs.waiting_to_write", run=claim.run, reason=str(error))
                await asyncio.sleep(min(WRITE_PAUSE_S * 2**tried, WRITE_PAUSE_MAX_S))
        raise DatabaseUnavailable(doing=f"writing the end of run {claim.run}")


async def _handle(handled: HandledKind, context: RunContext) -> Mapping[str, object]:
    """Run the handler, no longer than its kind may."""
    timeout_s = handled.kind.timeout_s
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            result = await handled.handler(context)
            json.dumps(result, allow_nan=False)  # one that is no JSON is the handler's failure
            return result
    except TimeoutError:
        if deadline.expired() and timeout_s is not None:
            raise JobTimeout(kind=handled.kind.name, timeout_s=timeout_s) from None
        raise
