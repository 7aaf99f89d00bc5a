"""Routes for operators: pause, resume, cancel, and everything of one user."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from steelyard.access.guard_route import requires
from steelyard.access.model import Principal
from steelyard.access.roles import Permission, check_owner
from steelyard.core.clock import format_utc
from steelyard.core.ids import UserId, parse_user_id
from steelyard.core.money import format_major
from steelyard.sync.control_sync import ControlOrder
from steelyard.sync.model import AccountState, RunLine, SyncedUser, TargetState
from steelyard.sync.open_sync import CORE_BANK
from steelyard.sync.shapes import REFUSALS, moment, sync_of

router = APIRouter(prefix="/api/sync")


class PauseBody(BaseModel):
    """Who is paused or resumed: one user, or all of the tenant at the source; and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    provider: str = CORE_BANK
    user: str | None = None
    reason: str | None = Field(
        None, description="1 to 200 printable characters; in the audit record."
    )


class CancelBody(BaseModel):
    """Why a user's syncs are ended."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    reason: str | None = Field(
        None, description="1 to 200 printable characters; in the audit record."
    )


class ToldPause(BaseModel):
    """Whether it is paused now, and whether that is new."""

    model_config = ConfigDict(frozen=True)

    paused: bool
    changed: bool


class ToldCancel(BaseModel):
    """How many runs ended as cancelled."""

    model_config = ConfigDict(frozen=True)

    cancelled: int


class ToldTarget(BaseModel):
    """When the user is synced next and what came of the last time. `in_flight`: somebody is at it now."""

    model_config = ConfigDict(frozen=True)

    due_at: str | None
    priority: int
    in_flight: bool
    run_id: str | None
    last_result: str | None
    last_success_at: str | None
    last_login_at: str | None
    paused_at: str | None
    paused_by: str | None
    pause_reason: str | None


class ToldAccount(BaseModel):
    """A mirrored account. `as_of`: its balance changed last; `read_at`: it was read last, changed or not."""

    model_config = ConfigDict(frozen=True)

    account: str
    ending: str
    type: str | None
    active: bool
    primary: bool
    currency: str
    balance: str | None
    as_of: str | None
    read_at: str | None


class ToldRun(BaseModel):
    """One run. `error` says what to do."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: str
    priority: int
    attempts: int
    created_at: str
    finished_at: str | None
    error_code: str | None
    error: str | None


class ToldUser(BaseModel):
    """Everything of one user's syncs; `reason`: why nothing is asked for, if so."""

    model_config = ConfigDict(frozen=True)

    user: str
    reason: str | None
    target: ToldTarget | None
    accounts: list[ToldAccount]
    runs: list[ToldRun]


_CONTROL: dict[int | str, dict[str, Any]] = {
    **REFUSALS,
    404: {"description": "No such source, or no such user who is synced"},
}


@router.post("/pause", responses=_CONTROL)
async def pause(
    request: Request,
    body: PauseBody,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_CONTROL))],
) -> ToldPause:
    """Ask for nothing more until resumed: of one user, or of all. What is in flight ends."""
    changed = await sync_of(request).pause(principal, _order(request, body))
    return ToldPause(paused=True, changed=changed)


@router.post("/resume", responses=_CONTROL)
async def resume(
    request: Request,
    body: PauseBody,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_CONTROL))],
) -> ToldPause:
    """Ask again for what is due."""
    changed = await sync_of(request).resume(principal, _order(request, body))
    return ToldPause(paused=False, changed=changed)


@router.post("/users/{user}/cancel", responses=_CONTROL)
async def cancel(
    request: Request,
    user: str,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_CONTROL))],
    body: CancelBody | None = None,
) -> ToldCancel:
    """End what the user's syncs are at: nothing that one in flight brings is written."""
    reason = None if body is None else body.reason
    order = ControlOrder(CORE_BANK, parse_user_id(user), reason, _request_id(request))
    return ToldCancel(cancelled=await sync_of(request).cancel(principal, order))


@router.get("/users/{user}", responses=_CONTROL)
async def show_user(
    request: Request,
    user: str,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_READ))],
) -> ToldUser:
    """Tell everything of one user's syncs: accounts, balances with their age, what is next, the last runs."""
    wanted = parse_user_id(user)
    check_owner(principal, wanted, kind="user", identifier=user)
    return tell_user(await sync_of(request).describe_user(principal.tenant, wanted))


def tell_user(found: SyncedUser) -> ToldUser:
    """Return what is told of a user."""
    return ToldUser(
        user=found.user,
        reason=found.reason,
        target=None if found.target is None else _tell_target(found.target),
        accounts=[_tell_account(one) for one in found.accounts],
        runs=[_tell_run(one) for one in found.runs],
    )


def _tell_target(target: TargetState) -> ToldTarget:
    pause = target.pause
    return ToldTarget(
        due_at=moment(target.due_at),
        priority=target.priority,
        in_flight=target.lease_until is not None,
        run_id=None if target.run is None else str(target.run),
        last_result=target.last_result,
        last_success_at=moment(target.last_success_at),
        last_login_at=moment(target.last_login_at),
        paused_at=None if pause is None else moment(pause.at),
        paused_by=None if pause is None else pause.by,
        pause_reason=None if pause is None else pause.reason,
    )


def _tell_account(one: AccountState) -> ToldAccount:
    is_read = one.read_at is not None
    return ToldAccount(
        account=str(one.account),
        ending=one.ending,
        type=one.account_type,
        active=one.is_active,
        primary=one.is_primary,
        currency=one.currency.code,
        balance=format_major(one.balance, one.currency.digits) if is_read else None,
        as_of=format_utc(one.as_of) if is_read else None,
        read_at=moment(one.read_at),
    )


def _tell_run(one: RunLine) -> ToldRun:
    return ToldRun(
        id=str(one.run),
        state=one.state,
        priority=one.priority,
        attempts=one.attempts,
        created_at=format_utc(one.created_at),
        finished_at=moment(one.finished_at),
        error_code=one.error_code,
        error=one.error,
    )


def _order(request: Request, body: PauseBody) -> ControlOrder:
    user: UserId | None = None if body.user is None else parse_user_id(body.user)
    return ControlOrder(body.provider, user, body.reason, _request_id(request))


def _request_id(request: Request) -> str | None:
    found = getattr(request.state, "request_id", None)
    return None if found is None else str(found)
