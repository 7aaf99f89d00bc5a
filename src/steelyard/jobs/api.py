"""Routes of runs and jobs for operators: lists, one run, its end, dead letters, figures."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Protocol, cast

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AwareDatetime

from steelyard.access.guard_route import requires
from steelyard.access.model import Principal
from steelyard.access.pages import PAGE_SIZE, PAGE_SIZE_MAX
from steelyard.access.roles import Permission
from steelyard.core.clock import Clock, format_utc
from steelyard.jobs.list_runs import list_dead_letters, list_runs
from steelyard.jobs.manage_runs import Operator, end_run, try_again
from steelyard.jobs.open_jobs import Jobs
from steelyard.jobs.seen_run import EARLIEST, LATEST, RunFilter, read_states
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
from steelyard.runtime.database import Database

router = APIRouter(prefix="/api")

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
    operator, now = _operator(request, principal), services.clock.now()
    async with services.database.unit_of_work(principal.tenant) as uow:
        outcome, state = await end_run(uow, operator, run_id, now=now)
    return ToldCancel(id=run_id, outcome=outcome, state=state)


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
    operator, now = _operator(request, principal), services.clock.now()
    async with services.database.unit_of_work(principal.tenant) as uow:
        state = await try_again(uow, operator, run_id, now=now)
    services.jobs.wake()
    return ToldRequeue(id=run_id, state=state)


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


def _operator(request: Request, principal: Principal) -> Operator:
    request_id = getattr(request.state, "request_id", None)
    return Operator(principal, request_id, _services_of(request).jobs.cancel_elsewhere)


def _services_of(request: Request) -> JobServices:
    return cast(JobServices, request.app.state.steelyard)


def _utc(moment: datetime | None, absent: datetime) -> datetime:
    return absent if moment is None else min(max(moment, EARLIEST), LATEST)
