"""Cancelling runs, and trying dead letters again."""

from datetime import datetime
from enum import StrEnum

from steelyard.core.errors import NotFound
from steelyard.jobs.errors import NotDead
from steelyard.jobs.store import queue
from steelyard.runtime.database import UnitOfWork

CANCELLED_CODE = "job_cancelled"
CANCELLED = {"code": CANCELLED_CODE, "message": "it was cancelled before it ended"}
"""Who did it is in the audit record alone: customers read this with their tokens."""


class Cancelled(StrEnum):
    """What became of asking for a run's end."""

    CANCELLED = "cancelled"
    """It had not begun, or waited for its next attempt: it has ended."""
    ASKED = "asked"
    """It runs: its worker ends it within a heartbeat, or it was quicker."""
    ENDED = "ended"
    """It has no job any more: nothing was changed."""


async def cancel_run(uow: UnitOfWork, run: int, *, now: datetime) -> Cancelled:
    """End a run of a job, whoever asked for it.

    Args:
        uow: Open unit of work.
        run: Its id.
        now: UTC.
    Raises:
        NotFound: There is no such run in this tenant.
    """
    found = await queue.cancel_job(uow, run, CANCELLED, now=now)
    if found is None:
        raise NotFound(kind="run", identifier=str(run))
    return Cancelled(found)


async def requeue_run(uow: UnitOfWork, run: int, *, now: datetime) -> None:
    """Let a dead letter be tried again: its run goes on, with as many attempts as it had at first.

    Raises:
        NotFound: There is no such run in this tenant.
        NotDead: It is not a dead letter: it waits, runs, or ended well or cancelled.
    """
    if await queue.requeue_job(uow, run, now=now):
        return
    state = await queue.find_state(uow, run)
    if state is None:
        raise NotFound(kind="run", identifier=str(run))
    raise NotDead(run=run, state=state)
