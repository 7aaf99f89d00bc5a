"""Routes of proof and repair. One proof at a time in a process; another is asked to come back."""

from asyncio import Semaphore
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol, cast

from fastapi import APIRouter, Depends, Query, Request

from steelyard.access.guard_route import requires
from steelyard.access.model import Principal
from steelyard.access.roles import Permission
from steelyard.core.clock import Clock
from steelyard.core.errors import InvalidInput, Overloaded
from steelyard.core.ids import UserId, parse_user_id
from steelyard.reconcile.operations import Reconcile
from steelyard.reconcile.shapes import (
    SHOWN_MAX,
    GivenFix,
    GivenVerify,
    ToldDiscrepancies,
    ToldReport,
    tell_discrepancy,
    tell_report,
)
from steelyard.reconcile.verify import Depth
from steelyard.runtime.bus import ChangeBus
from steelyard.runtime.cache import BalanceCache
from steelyard.runtime.database import Database

router = APIRouter(prefix="/api/reconcile")

_SENTENCES = {
    400: "The body cannot be read",
    401: "No, bad, expired or revoked token or key",
    403: "The role may not",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    422: "A value is not acceptable",
    503: "Another proof is running, or the database did not answer; try again",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": sentence,
        "content": {"application/problem+json": {"schema": {"type": "object"}}},
    }
    for status, sentence in _SENTENCES.items()
}
_QUERY_REFUSALS = {
    status: told for status, told in _REFUSALS.items() if status not in (400, 413, 415)
}


class ReconcileServices(Protocol):
    """What these routes need of `app.state.steelyard`."""

    @property
    def database(self) -> Database: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def cache(self) -> BalanceCache: ...
    @property
    def bus(self) -> ChangeBus: ...


@router.post("/verify", responses=_REFUSALS)
async def verify_balances(
    request: Request,
    body: GivenVerify,
    principal: Annotated[Principal, Depends(requires(Permission.RECONCILE_RUN))],
) -> ToldReport:
    """Prove every stored balance of the tenant, or of one user, from its changes; change nothing."""
    if body.incremental and body.user_id is not None:
        raise InvalidInput(
            field="incremental", problem="it proves the whole tenant; leave user_id out"
        )
    reconcile = _reconcile_for(request, principal)
    async with _one_at_a_time(request):
        if body.incremental:
            return tell_report(await reconcile.verify_incremental())
        report = await reconcile.verify(_user(body.user_id), depth=Depth(body.depth))
    return tell_report(report)


@router.post("/fix", responses=_REFUSALS)
async def fix_balances(
    request: Request,
    body: GivenFix,
    principal: Annotated[Principal, Depends(requires(Permission.RECONCILE_FIX))],
) -> ToldReport:
    """Prove, repair what can be proved, and report what remains. Repeating it is harmless."""
    async with _one_at_a_time(request):
        report = await _reconcile_for(request, principal).verify_and_fix(_user(body.user_id))
    return tell_report(report)


@router.get("/discrepancies", responses=_QUERY_REFUSALS)
async def list_discrepancies(
    request: Request,
    principal: Annotated[Principal, Depends(requires(Permission.RECONCILE_READ))],
    limit: Annotated[int, Query(ge=1, le=SHOWN_MAX, description="Discrepancies listed")] = 100,
    depth: Annotated[Depth, Query(description="How much is computed anew")] = Depth.CHAIN,
) -> ToldDiscrepancies:
    """List what differs, the largest difference first. Proves the whole tenant for it."""
    async with _one_at_a_time(request):
        found = await _reconcile_for(request, principal).discrepancies(depth=depth)
    return ToldDiscrepancies(
        found=len(found), data=[tell_discrepancy(one) for one in found[:limit]]
    )


def _reconcile_for(request: Request, principal: Principal) -> Reconcile:
    services = cast(ReconcileServices, request.app.state.steelyard)
    return Reconcile(
        database=services.database,
        tenant=principal.tenant,
        clock=services.clock,
        cache=services.cache,
        bus=services.bus,
        actor=principal,
        request_id=getattr(request.state, "request_id", None),
    )


@asynccontextmanager
async def _one_at_a_time(request: Request) -> AsyncIterator[None]:
    """Let one proof run in this process: it takes all cores of the database.

    Raises:
        Overloaded: One is running.
    """
    state = request.app.state
    if not hasattr(state, "reconcile_turn"):
        state.reconcile_turn = Semaphore(1)
    turn: Semaphore = state.reconcile_turn
    if turn.locked():
        raise Overloaded(queue="reconciliation", limit=1)
    async with turn:
        yield


def _user(given: str | None) -> UserId | None:
    return None if given is None else parse_user_id(given)
