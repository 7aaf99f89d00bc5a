"""What operators do to runs: end them, and try dead letters again; on record in the audit."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from steelyard.access.audit import DONE, record_audit
from steelyard.access.model import Principal
from steelyard.jobs.cancel_run import Cancelled, cancel_run, requeue_run
from steelyard.jobs.model import State
from steelyard.jobs.seen_run import SeenRun
from steelyard.jobs.show_run import get_run
from steelyard.runtime.database import UnitOfWork

CancelElsewhere = Callable[[UnitOfWork, Principal, SeenRun], Awaitable[Cancelled]]
"""Ends a run that has no job: a sync is the state of its target."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts, and what ends runs of kinds that are no jobs."""

    principal: Principal
    request_id: str | None = None
    cancel_elsewhere: Mapping[str, CancelElsewhere] = field(default_factory=dict)


async def end_run(
    uow: UnitOfWork, operator: Operator, run: str, *, now: datetime
) -> tuple[Cancelled, State]:
    """End a run: at once if it has not begun, else by its worker; one that has ended stays as it is.

    Returns:
        What became of it, and where it stands now.
    Raises:
        NotFound: There is no such run in this tenant.
    """
    before = await get_run(uow, run)
    elsewhere = operator.cancel_elsewhere.get(before.kind)
    if before.state.is_final:
        outcome = Cancelled.ENDED
    elif elsewhere is not None:
        outcome = await elsewhere(uow, operator.principal, before)
    else:
        outcome = await cancel_run(uow, before.id, now=now)
    await _record(uow, operator, before, action="run.cancel", outcome=outcome, now=now)
    return outcome, (await get_run(uow, run)).state


async def try_again(uow: UnitOfWork, operator: Operator, run: str, *, now: datetime) -> State:
    """Let a dead letter be tried again, under the same id and with all its attempts. Returns where it stands now.

    Raises:
        NotFound: There is no such run in this tenant.
        NotDead: It is no dead letter.
    """
    found = await get_run(uow, run)
    await requeue_run(uow, found.id, now=now)
    await _record(uow, operator, found, action="run.requeue", outcome=DONE, now=now)
    return State.RETRYING


async def _record(
    uow: UnitOfWork,
    operator: Operator,
    run: SeenRun,
    *,
    action: str,
    outcome: str,
    now: datetime,
) -> None:
    await record_audit(
        uow,
        operator.principal,
        action=action,
        target=f"run:{run.id}",
        outcome=outcome,
        now=now,
        request_id=operator.request_id,
        details={"kind": run.kind, "subject": run.subject},
    )
