"""Routes of runs and jobs for operators: lists, one run, its end, dead letters, figures."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Protocol, cast

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AwareDatetime

from steelyard.access.audit import record_audit
from steelyard.access.guard_route import requires
from steelyard.access.model import Principal
from steelyard.access.pages import PAGE_SIZE, PAGE_SIZE_MAX
from steelyard.access.roles import Permission
from steelyard.core.clock import Clock, format_utc
from steelyard.core.errors import InvalidInput
from steelyard.jobs.cancel_run import Cancelled, cancel_run, requeue_run
from steelyard.jobs.list_runs import list_dead_letters, list_runs
from steelyard.jobs.model import State
from steelyard.jobs.open_jobs import Jobs
from steelyard.jobs.seen_run import EARLIEST, LATEST, RunFilter, SeenRun
from steelyard.jobs.shapes import (
    ToldCancel,
    ToldRequeue,
    ToldRun,
    ToldRuns,
    ToldStatistics,
    tell_figures,
    tell_page,
    tell_run,
)
from steelyard.jobs.show_run import get_run
from steelyard.jobs.statistics import COUNTED_MAX, PERIOD, load_figures
from steelyard.runtime.database import Database, UnitOfWork

router = APIRouter(prefix="/api")

CancelElsewhere = Callable[[UnitOfWork, Principal, SeenRun], Awaitable[Cancelled]]
"""Ends a run that has no job: a sync is the state of its target."""

Reader = Annotated[Principal, Depends(requires(Permission.RUNS_READ))]
Manager = Annotated[Principal, Depends(requires(Permission.RUNS_MANAGE))]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX, description="Runs on a page")]
RunPath = Annotated[str, Path(alias="id", min_length=1, max_length=64)]
Kind = Annotated[str | None, Query(max_length=40, description="Only of this kind")]

_SENTENCES = {
    401: "No, bad, expired or revoked token or key",
    403: "The role may not",
    404: "No such run here",
    409: "The run is no dead letter",
    422: "A value is not acceptable",
    503: "The database did not answer; the same request is safe",
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {
            "description": _SENTENCES[status],
            "content": {"application/problem+json": {"schema": {"type": "object"}}},
        }
        for status in sorted({*statuses, 401, 403, 422, 503})
    }


class JobServices(Protocol):
    """What these routes need of `app.state.steelyard`."""

    @property
    def database(self) -> Database: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def cancel_elsewhere(self) -> Mapping[str, CancelElsewhere]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters of a list, as they come in a query."""

    kind: Kind = None
    state: Annotated[
        str | None, Query(max_length=120, description="Only in these states, joined by commas")
    ] = None
    subject: Annotated[
        str | None, Query(min_length=1, max_length=128, description="Only about this")
    ] = None
    since: Annotated[
        AwareDatetime | None, Query(alias="from", description="Asked for from this moment on")
    ] = None
    until: Annotated[
        AwareDatetime | None, Query(alias="to", description="Asked for before this moment")
    ] = None
    error_code: Annotated[
        str | None,
        Query(max_length=80, description="Whose newest failed attempt ended with this code"),
    ] = None

    def read(self) -> RunFilter:
        """Return the filter. Raises InvalidInput."""
        return RunFilter(
            kinds=() if self.kind is None else (self.kind,),
            states=read_states(self.state),
            subject=self.subject,
            since=_utc(self.since, EARLIEST),
            until=_utc(self.until, LATEST),
            error_code=self.error_code,
        )


@router.get("/runs", responses=_refusals())
async def list_all_runs(
    request: Request,
    principal: Reader,
    *,
    asked: Annotated[Asked, Depends()],
    cursor: Cursor = None,
    limit: Limit = PAGE_SIZE,
) -> ToldRuns:
    """List the tenant's runs, newest first."""
    wanted = asked.read()
    async with _services_of(request).database.unit_of_work(principal.tenant) as uow:
        return tell_page(await list_runs(uow, wanted, cursor=cursor, limit=limit))


@router.get("/runs/{id}", responses=_refusals(404))
async def show_one_run(request: Request, principal: Reader, run_id: RunPath) -> ToldRun:
    """Show one run with its arguments, result and error."""
    async with _services_of(request).database.unit_of_work(principal.tenant) as uow:
        return tell_run(await get_run(uow, run_id))


@router.post("/runs/{id}/cancel", responses=_refusals(404))
async def cancel_one_run(request: Request, principal: Manager, run_id: RunPath) -> ToldCancel:
    """End a run. One that has not begun ends at once; one that runs is ended by its worker within some seconds.

    A run that has ended stays as it is. Cancelling the sync of a user ends whatever was asked for of that user.
    """
    services = _services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        before = await get_run(uow, run_id)
        elsewhere = services.cancel_elsewhere.get(before.kind)
        if before.state.is_final:
            outcome = Cancelled.ENDED
        elif elsewhere is not None:
            outcome = await elsewhere(uow, principal, before)
        else:
            now = services.clock.now()
            outcome = await cancel_run(uow, before.id, by=principal.subject, now=now)
        after = await get_run(uow, run_id)
        await _record(uow, request, principal, ("run.cancel", run_id, outcome))
    return ToldCancel(id=run_id, outcome=outcome, state=after.state)


@router.get("/jobs/failed", responses=_refusals())
async def list_failed_jobs(
    request: Request,
    principal: Reader,
    *,
    kind: Kind = None,
    cursor: Cursor = None,
    limit: Limit = PAGE_SIZE,
) -> ToldRuns:
    """List dead letters: runs that failed for good and can be tried again. Syncs are none; they come again by themselves."""
    async with _services_of(request).database.unit_of_work(principal.tenant) as uow:
        return tell_page(await list_dead_letters(uow, kind, cursor=cursor, limit=limit))


@router.post("/jobs/failed/{id}/requeue", responses=_refusals(404, 409))
async def requeue_failed_job(request: Request, principal: Manager, run_id: RunPath) -> ToldRequeue:
    """Let a dead letter be tried again: its run goes on under the same id, with all its attempts."""
    services = _services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        found = await get_run(uow, run_id)
        await requeue_run(uow, found.id, now=services.clock.now())
        await _record(uow, request, principal, ("run.requeue", run_id, "done"))
    services.jobs.wake()
    return ToldRequeue(id=run_id, state=State.RETRYING)


@router.get("/jobs/stats", responses=_refusals())
async def show_statistics(request: Request, principal: Reader) -> ToldStatistics:
    """Tell how many of the tenant's runs wait, are worked on, and ended in the last day, and how long they took."""
    services = _services_of(request)
    now = services.clock.now()
    async with services.database.unit_of_work(principal.tenant) as uow:
        found = await load_figures(uow, services.jobs.kinds.names, now=now)
    return ToldStatistics(
        since=format_utc(now - PERIOD), counted_max=COUNTED_MAX, data=tell_figures(found)
    )


def read_states(text: str | None) -> tuple[State, ...]:
    """Return the states that a list joined by commas names; none: all.

    Raises:
        InvalidInput: One is none.
    """
    if text is None:
        return ()
    known = {str(state): state for state in State}
    wanted = dict.fromkeys(part.strip() for part in text.split(","))
    if not wanted.keys() <= known.keys():
        raise InvalidInput(field="state", problem=f"a state is one of {', '.join(known)}")
    return tuple(known[name] for name in wanted)


async def _record(
    uow: UnitOfWork, request: Request, principal: Principal, act: tuple[str, str, str]
) -> None:
    action, run, outcome = act
    await record_audit(
        uow,
        principal,
        action=action,
        target=f"run:{run}",
        outcome=outcome,
        now=_services_of(request).clock.now(),
        request_id=getattr(request.state, "request_id", None),
    )


def _services_of(request: Request) -> JobServices:
    return cast(JobServices, request.app.state.steelyard)


def _utc(moment: datetime | None, absent: datetime) -> datetime:
    return absent if moment is None else min(max(moment, EARLIEST), LATEST)
