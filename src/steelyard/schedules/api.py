"""Routes of schedules: admins see and change when named work begins."""

from typing import Annotated, Any, Protocol, cast

from fastapi import APIRouter, Depends, Path, Request, Response

from steelyard.access.guard_route import requires
from steelyard.access.model import Principal
from steelyard.access.roles import Permission
from steelyard.core.clock import Clock
from steelyard.core.ids import IdSource
from steelyard.jobs.open_jobs import Jobs
from steelyard.runtime.database import Database
from steelyard.schedules import edit_schedules
from steelyard.schedules.edit_schedules import Edits, Wanted, with_timing
from steelyard.schedules.model import Timing
from steelyard.schedules.shapes import (
    GivenSchedule,
    GivenScheduleEdit,
    ToldSchedule,
    ToldSchedules,
    ToldStarted,
    tell_schedule,
    tell_schedules,
    tell_started,
)

router = APIRouter(prefix="/api/schedules")

_SENTENCES = {
    400: "The body cannot be read",
    401: "No, bad, expired or revoked token or key",
    403: "The role may not",
    404: "There is no such schedule",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    422: "A value is not acceptable; `param` names it",
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


_WITH_BODY = (400, 413, 415)
TIMING_FIELDS = ("cron", "every_s", "zone", "hours")
Name = Annotated[str, Path(min_length=1, max_length=80)]
Reader = Annotated[Principal, Depends(requires(Permission.SCHEDULES_READ))]
Writer = Annotated[Principal, Depends(requires(Permission.SCHEDULES_WRITE))]


class ScheduleServices(Protocol):
    """What these routes need of `app.state.steelyard`."""

    @property
    def database(self) -> Database: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def ids(self) -> IdSource: ...
    @property
    def jobs(self) -> Jobs: ...


@router.get("", responses=_refusals())
async def list_schedules(request: Request, principal: Reader) -> ToldSchedules:
    """List the tenant's schedules by name, with the next three ticks of each."""
    services = _services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        found = await edit_schedules.list_schedules(uow, now=services.clock.now())
    return await tell_schedules(found)


@router.get("/{name}", responses=_refusals(404))
async def show_schedule(request: Request, name: Name, principal: Reader) -> ToldSchedule:
    """Show one schedule."""
    services = _services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        found = await edit_schedules.get_schedule(uow, name, now=services.clock.now())
    return tell_schedule(found)


@router.put("/{name}", responses={201: {"model": ToldSchedule}, **_refusals(*_WITH_BODY)})
async def put_schedule(
    request: Request, response: Response, name: Name, *, body: GivenSchedule, principal: Writer
) -> ToldSchedule:
    """Make a schedule (201) or put this one in its place (200); it ticks from now on."""
    services = _services_of(request)
    timing = Timing(body.cron, body.every_s, body.zone, body.hours)
    wanted = Wanted(body.kind, timing, body.subject, body.arguments, body.enabled)
    async with services.database.unit_of_work(principal.tenant) as uow:
        made, is_new = await edit_schedules.put_schedule(
            uow, name, wanted, _edits(request, principal)
        )
    response.status_code = 201 if is_new else 200
    return tell_schedule(made)


@router.patch("/{name}", responses=_refusals(404, *_WITH_BODY))
async def change_schedule(
    request: Request, name: Name, body: GivenScheduleEdit, principal: Writer
) -> ToldSchedule:
    """Change what is given of a schedule; `{"enabled": false}` switches it off. It ticks from now on."""
    services = _services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        changed = await edit_schedules.change_schedule(
            uow, name, lambda wanted: _edited(wanted, body), _edits(request, principal)
        )
    return tell_schedule(changed)


@router.delete("/{name}", status_code=204, responses=_refusals(404))
async def remove_schedule(request: Request, name: Name, principal: Writer) -> None:
    """Remove a schedule that an admin made. Those of every tenant can be switched off."""
    services = _services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        await edit_schedules.remove_schedule(uow, name, _edits(request, principal))


@router.post("/{name}/run", status_code=202, responses=_refusals(404))
async def run_schedule(request: Request, name: Name, principal: Writer) -> ToldStarted:
    """Begin a run now, whether the schedule is on or off; one that nobody has begun yet is shared."""
    services = _services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        requested = await edit_schedules.run_schedule(
            uow, name, _edits(request, principal), ids=services.ids
        )
    services.jobs.wake()
    return tell_started(requested)


def _edited(wanted: Wanted, body: GivenScheduleEdit) -> Wanted:
    given = {name: getattr(body, name) for name in body.model_fields_set}
    timing = {name: given.pop(name) for name in TIMING_FIELDS if name in given}
    if "enabled" in given:
        given["is_on"] = given.pop("enabled")
    return with_timing(wanted, timing, given)


def _edits(request: Request, principal: Principal) -> Edits:
    services = _services_of(request)
    request_id = getattr(request.state, "request_id", None)
    return Edits(principal, services.jobs.kinds, services.clock.now(), request_id)


def _services_of(request: Request) -> ScheduleServices:
    return cast(ScheduleServices, request.app.state.steelyard)
