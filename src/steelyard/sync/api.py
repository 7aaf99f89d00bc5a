"""Routes of syncing: what waits, and asking for a user's balances."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from steelyard.access.guard_route import requires
from steelyard.access.model import Principal
from steelyard.access.roles import Permission, check_owner
from steelyard.core.clock import format_utc
from steelyard.core.ids import UserId, parse_user_id
from steelyard.core.money import format_major
from steelyard.runtime.health import PUBLIC
from steelyard.sync.model import Raised, SyncResult
from steelyard.sync.open_sync import BalanceSync

SERVICE: Final = "balance-sync"

router = APIRouter(prefix="/api/sync")

_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No, bad, expired or revoked token or key"},
    403: {"description": "The role may not"},
    404: {"description": "A user asked for another one"},
    422: {"description": "A value is not acceptable"},
    503: {"description": "The database did not answer; try again"},
}


class SyncServices(Protocol):
    """What these routes need of `app.state.steelyard`."""

    @property
    def sync(self) -> BalanceSync: ...


@dataclass(frozen=True, slots=True)
class OpenToAll:
    """A dependency that lets everybody in, and says so."""

    permission: str = PUBLIC

    async def __call__(self) -> None:
        """Let in."""


class ToldStatus(BaseModel):
    """Due syncs of the whole installation, logins and the rest, and whether any is in flight."""

    model_config = ConfigDict(frozen=True)

    service: str
    priority: int
    background: int
    processing: bool


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
    """Whether the sync was newly queued, the run that will serve it, or why there is none."""

    model_config = ConfigDict(frozen=True)

    queued: bool
    run_id: str | None
    reason: str | None


@router.get("/status", responses={503: _REFUSALS[503]}, dependencies=[Depends(OpenToAll())])
async def show_status(request: Request) -> ToldStatus:
    """Tell how many syncs are due, counted up to 100,000 per tenant, and whether one is in flight."""
    status = await _sync_of(request).get_status()
    return ToldStatus(
        service=SERVICE,
        priority=status.priority,
        background=status.background,
        processing=status.processing,
    )


@router.post("/users/{user}/login", responses=_REFUSALS)
async def sync_for_login(
    request: Request,
    user: str,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_RUN))],
) -> ToldLogin:
    """Answer with the user's fresh balance at the core bank, or after 2 s with the stored one; the sync goes on."""
    wanted = _user(principal, user)
    return _tell_login(await _sync_of(request).sync_with_timeout(principal.tenant, wanted))


@router.post("/users/{user}", responses=_REFUSALS)
async def queue_user(
    request: Request,
    user: str,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_RUN))],
) -> ToldQueued:
    """Ask for a sync in the background; a user is never queued twice."""
    wanted = _user(principal, user)
    return _tell_queued(await _sync_of(request).queue_sync(principal.tenant, wanted))


def _sync_of(request: Request) -> BalanceSync:
    return cast(SyncServices, request.app.state.steelyard).sync


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


def _tell_queued(raised: Raised) -> ToldQueued:
    run = None if raised.run is None else str(raised.run)
    return ToldQueued(queued=raised.is_new, run_id=run, reason=raised.reason)
