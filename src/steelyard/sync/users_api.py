"""The route that shows whose balances are pulled: what was read, when, and whether that is still fresh."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Protocol, cast

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict

from steelyard.access.guard_route import requires
from steelyard.access.model import Principal, Role
from steelyard.access.pages import Place, read_cursor, write_cursor
from steelyard.access.roles import Permission
from steelyard.core.clock import Clock, format_utc
from steelyard.core.ids import UserId
from steelyard.mirror.standing import AccountStanding, UserStanding
from steelyard.mirror.store import list_users
from steelyard.runtime.database import Database
from steelyard.runtime.settings import Settings
from steelyard.sync.model import Budget, Circuit
from steelyard.sync.open_sync import CORE_BANK, BalanceSync
from steelyard.sync.store.budgets import find_budget

FRESH_PERIODS: Final = 2
"""A balance is fresh for so many periods after it was read: one may fail."""

LIST: Final = "synced-users"

router = APIRouter(prefix="/api/sync")

_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No, bad, expired or revoked token or key"},
    403: {"description": "The role may not"},
    422: {"description": "A value is not acceptable"},
    503: {"description": "The database did not answer; try again"},
}


class UsersServices(Protocol):
    """What this route needs of `app.state.steelyard`."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def database(self) -> Database: ...
    @property
    def sync(self) -> BalanceSync: ...


class ToldSource(BaseModel):
    """Whether the source is asked: `asked`, `away` (it failed again and again), `waiting` (it asked for that), `paused`, `off`.

    `until`: when it is tried again.
    """

    model_config = ConfigDict(frozen=True)

    provider: str
    state: str
    until: str | None


class ToldMirroredAccount(BaseModel):
    """A mirrored account; `balance` in minor units, `ending` of its number at the source."""

    model_config = ConfigDict(frozen=True)

    account: str
    currency: str
    digits: int
    balance: int
    seq: int
    read_at: str | None
    is_primary: bool
    account_type: str | None
    ending: str


class ToldSyncedUser(BaseModel):
    """A user whose balances are pulled.

    `state`: `fresh`, `stale` (not read for two periods), `new` (an account was never read), `paused`, or
    `stored` (nothing is read by itself).
    `read_at`: of the account that was not read for longest. `last_result`: `ok` or the newest error's code.
    """

    model_config = ConfigDict(frozen=True)

    user: str
    name: str | None
    state: str
    read_at: str | None
    last_result: str | None
    accounts: list[ToldMirroredAccount]


class ToldSyncedUsers(BaseModel):
    """Users by id; `interval_ms`: how often they are read, 0 where only when asked for; `now` by the server's clock."""

    model_config = ConfigDict(frozen=True)

    data: list[ToldSyncedUser]
    next_cursor: str | None
    has_more: bool
    source: ToldSource
    interval_ms: int
    now: str


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old a balance may be now. `period` None: nothing is read by itself, so nothing is called fresh."""

    period: timedelta | None
    now: datetime

    def state_of(self, user: UserStanding) -> str:
        """Return the word for how a user stands; never `fresh` unless every account was read in time."""
        if user.is_paused:
            return "paused"
        if user.read_at is None:
            return "new"
        if self.period is None:
            return "stored"
        is_fresh = user.read_at >= self.now - FRESH_PERIODS * self.period
        return "fresh" if is_fresh else "stale"


@router.get("/users", responses=_REFUSALS)
async def show_users(
    request: Request,
    principal: Annotated[Principal, Depends(requires(Permission.SYNC_READ))],
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ToldSyncedUsers:
    """List users whose balances are pulled, by id, with what was read last; a user sees itself."""
    services = cast(UsersServices, request.app.state.steelyard)
    after = read_cursor(cursor, of=LIST)
    only = principal.user if principal.role is Role.USER else None
    async with services.database.unit_of_work(principal.tenant) as uow:
        found = await list_users(
            uow,
            CORE_BANK,
            after=None if after is None else UserId(after),
            only=only,
            limit=limit + 1,
        )
        budget = await find_budget(uow, CORE_BANK)
    page, now = found[:limit], services.clock.now()
    interval_ms = services.settings.balance_sync_interval
    freshness = Freshness(timedelta(milliseconds=interval_ms) if interval_ms else None, now)
    has_more = len(found) > len(page)
    return ToldSyncedUsers(
        data=[_tell_user(user, freshness.state_of(user)) for user in page],
        next_cursor=write_cursor(Place(LIST, page[-1].user)) if has_more else None,
        has_more=has_more,
        source=_tell_source(budget, is_running=services.sync.running is not None, now=now),
        interval_ms=interval_ms,
        now=format_utc(now),
    )


def _tell_source(budget: Budget | None, *, is_running: bool, now: datetime) -> ToldSource:
    state, until = "asked", None
    if not is_running:
        state = "off"
    elif budget is not None and budget.paused_at is not None:
        state = "paused"
    elif budget is not None and budget.circuit is not Circuit.CLOSED:
        state, until = "away", budget.circuit_until
    elif budget is not None and budget.blocked_until is not None and budget.blocked_until > now:
        state, until = "waiting", budget.blocked_until
    return ToldSource(provider=CORE_BANK, state=state, until=_moment(until))


def _tell_user(user: UserStanding, state: str) -> ToldSyncedUser:
    return ToldSyncedUser(
        user=user.user,
        name=user.name,
        state=state,
        read_at=_moment(user.read_at),
        last_result=user.last_result,
        accounts=[_tell_account(one) for one in user.accounts],
    )


def _tell_account(one: AccountStanding) -> ToldMirroredAccount:
    return ToldMirroredAccount(
        account=str(one.account),
        currency=one.currency.code,
        digits=one.currency.digits,
        balance=one.balance,
        seq=one.seq,
        read_at=_moment(one.read_at),
        is_primary=one.is_primary,
        account_type=one.account_type,
        ending=one.ending,
    )


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else format_utc(moment)
