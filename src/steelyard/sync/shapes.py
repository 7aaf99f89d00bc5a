"""What the routes of syncing share."""

from datetime import datetime
from typing import Any, Final, Protocol, cast

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from steelyard.core.clock import format_utc
from steelyard.core.ids import IdSource
from steelyard.sync.model import SourceStatus
from steelyard.sync.open_sync import BalanceSync

REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"description": "No, bad, expired or revoked token or key"},
    403: {"description": "The role may not"},
    404: {"description": "A user asked for another one"},
    422: {"description": "A value is not acceptable"},
    503: {"description": "The database did not answer; try again"},
}
NEVER_YEAR: Final = 2100


class SyncServices(Protocol):
    """What these routes need of `app.state.steelyard`."""

    @property
    def sync(self) -> BalanceSync: ...
    @property
    def ids(self) -> IdSource: ...


class ToldTier(BaseModel):
    """What is due of one tier, counted up to 10,000, and since when the oldest is."""

    model_config = ConfigDict(frozen=True)

    tier: str
    due: int
    oldest_due_at: str


class ToldSourceStatus(BaseModel):
    """One tenant at one source. `tokens`: requests that may be sent now; `daily_limit` null: none."""

    model_config = ConfigDict(frozen=True)

    tenant: str
    provider: str
    tiers: list[ToldTier]
    in_flight: int
    in_flight_max: int
    circuit: str
    circuit_until: str | None
    blocked_until: str | None
    tokens: float
    rate_per_s: float
    burst: float
    used_today: int
    daily_limit: int | None
    tiered: bool
    paused_at: str | None
    paused_by: str | None
    pause_reason: str | None
    paused_users: int


def sync_of(request: Request) -> BalanceSync:
    """Return the syncing of the process that answers."""
    return cast(SyncServices, request.app.state.steelyard).sync


def new_token(request: Request) -> str:
    """Return a public token that nobody can guess."""
    return cast(SyncServices, request.app.state.steelyard).ids.new_id()


def moment(at: datetime | None) -> str | None:
    """Return a moment as it is told; one that never comes is told as none."""
    return None if at is None or at.year >= NEVER_YEAR else format_utc(at)


def tell_source(one: SourceStatus) -> ToldSourceStatus:
    """Return what is told of a source."""
    budget, pause = one.budget, one.pause
    return ToldSourceStatus(
        tenant=one.tenant,
        provider=one.provider,
        tiers=[
            ToldTier(tier=tier.tier, due=tier.due, oldest_due_at=format_utc(tier.oldest_due_at))
            for tier in one.tiers
        ],
        in_flight=one.in_flight,
        in_flight_max=budget.in_flight_max,
        circuit=budget.circuit,
        circuit_until=moment(budget.circuit_until),
        blocked_until=moment(budget.blocked_until),
        tokens=round(budget.tokens, 3),
        rate_per_s=budget.rate_per_s,
        burst=budget.burst,
        used_today=budget.daily_used,
        daily_limit=budget.daily_limit,
        tiered=one.is_tiered,
        paused_at=None if pause is None else moment(pause.at),
        paused_by=None if pause is None else pause.by,
        pause_reason=None if pause is None else pause.reason,
        paused_users=one.paused_users,
    )
