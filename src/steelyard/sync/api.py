"""Routes of syncing: what waits, and asking for a user's balances."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from steelyard.access.guard_route import authenticate_request, requires
from steelyard.access.model import Principal
from steelyard.access.roles import Permission, check_owner, require
from steelyard.core.clock import format_utc
from steelyard.core.ids import UserId, parse_user_id
from steelyard.core.money import format_major
from steelyard.runtime.health import PUBLIC
from steelyard.sync.enrolment_api import add_route as add_enrolment_route
from steelyard.sync.model import Raised, SyncResult
from steelyard.sync.shapes import REFUSALS, ToldSourceStatus, new_token, sync_of, tell_source

SERVICE: Final = "balance-sync"

router = APIRouter(prefix="/api/sync")
add_enrolment_route(router)

_LIMITED: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    429: {
        "description": "Syncs of this user were asked for too often; `Retry-After` says when to try again"
    },
}


@dataclass(frozen=True, slots=True)
class OpenToAll:
    """A dependency that lets everybody in, and says so."""

    permission: str = PUBLIC

    async def __call__(self) -> None:
        """Let in."""


class ToldStatus(BaseModel):
    """Due syncs of the whole installation, logins and the rest, and whether any is in flight.

    `sources`: with `detail`, how each source of the caller's tenant stands.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    priority: int
    background: int
    processing: bool
    sources: list[ToldSourceStatus] | None = None


class ToldLogin(BaseModel):
    """Answer to a login. `balance` in major units as text; `ok`: it was read after the request."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    balance: str | None
    currency: str | None
    as_of: str | None
    account: str | None
    queued: bool
    run_id: str | None
    reason: str | None


class ToldQueued(BaseModel):
    """Whether the sync was newly queued, the run that will serve it, or why there is none.

    `id`, `jobId` and `run_id` are the same. `publicAccessToken` reads the run at `/api/jobs/status`; it is told only
    here.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    queued: bool
    run_id: str | None
    id: str | None
    job_id: Annotated[str | None, Field(alias="jobId")]
    public_access_token: Annotated[str | None, Field(alias="publicAccessToken")]
    reason: str | None


@router.get(
    "/status",
    responses={code: REFUSALS[code] for code in (401, 403, 422, 503)},
    response_model_exclude_none=True,
    dependencies=[Depends(OpenToAll())],
)
async def show_status(request: Request, *, detail: bool = False) -> ToldStatus:
    """Tell how many syncs are due, counted up to 100,000, and whether one is in flight.

    With `detail`, to operators: how each source of their tenant stands.
    """
    sources = None
    if detail:
        principal = await authenticate_request(request)
        require(principal, Permission.SYNC_CONTROL)
        found = await sync_of(request).describe_sources(principal.tenant)
        sources = [tell_source(one) for one in found]
    status = await sync_of(request).get_status()
    return ToldStatus(
        service=SERVICE,
        priority=status.priority,
        background=status.background,
        processing=status.processing,
        sources=sources,
    )


@router.post("/users/{user}/login", responses=_LIMITED)
async def sync_for_login(
    request: Request,
    user: str,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_RUN))],
) -> ToldLogin:
    """Answer with the user's fresh balance at the core bank, or after 2 s with the stored one; the sync goes on."""
    wanted = _user(principal, user)
    sync_of(request).limit.check(principal.tenant, wanted)
    return _tell_login(await sync_of(request).sync_with_timeout(principal.tenant, wanted))


@router.post("/users/{user}", responses=_LIMITED)
async def queue_user(
    request: Request,
    user: str,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_RUN))],
) -> ToldQueued:
    """Ask for a sync in the background; a user is never queued twice."""
    wanted = _user(principal, user)
    sync_of(request).limit.check(principal.tenant, wanted)
    token = new_token(request)
    raised = await sync_of(request).queue_sync(principal.tenant, wanted, token=token)
    return _tell_queued(raised, token)


def _user(principal: Principal, user: str) -> UserId:
    wanted = parse_user_id(user)
    check_owner(principal, wanted, kind="user", identifier=user)
    return wanted


def _tell_login(result: SyncResult) -> ToldLogin:
    balance = None
    if result.balance is not None and result.currency is not None:
        balance = format_major(result.balance, result.currency.digits)
    return ToldLogin(
        ok=result.ok,
        balance=balance,
        currency=result.currency.code if result.currency else None,
        as_of=format_utc(result.as_of) if result.as_of else None,
        account=str(result.account) if result.account else None,
        queued=result.queued,
        run_id=str(result.run_id) if result.run_id else None,
        reason=result.reason,
    )


def _tell_queued(raised: Raised, token: str) -> ToldQueued:
    run = None if raised.run is None else str(raised.run)
    return ToldQueued(
        queued=raised.is_new,
        run_id=run,
        id=run,
        job_id=run,
        public_access_token=None if run is None else token,
        reason=raised.reason,
    )
