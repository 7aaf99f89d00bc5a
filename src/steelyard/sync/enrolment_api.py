"""The route that enrolls many users at once."""

from typing import Annotated, Any, Protocol, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from steelyard.access.authenticate import Authenticator
from steelyard.access.guard_route import requires
from steelyard.access.model import Principal
from steelyard.access.roles import Permission
from steelyard.core.clock import Clock
from steelyard.core.errors import InvalidInput
from steelyard.mirror.apply_readings import PublishReadings
from steelyard.runtime.bus import ChangeBus
from steelyard.runtime.cache import BalanceCache
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Database
from steelyard.runtime.settings import Settings
from steelyard.sync.enroll import enrollment_of
from steelyard.sync.enroll_items import ITEMS_MAX, EnrolmentCall, ItemOutcome, enroll_items
from steelyard.sync.open_sync import CORE_BANK

ACCOUNTS_OF_USER_MAX = 100
ACCOUNTS_IN_CALL_MAX = 10_000
"""Of all users of a call together: so many are written well within a request's deadline."""

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body cannot be read"},
    401: {"description": "No, bad, expired or revoked token or key"},
    403: {"description": "The role may not"},
    413: {"description": "The body is too large"},
    415: {"description": "The body is not declared as JSON"},
    422: {"description": "A value is not acceptable"},
    503: {"description": "The database did not answer; the same request is safe"},
}


class EnrolmentServices(Protocol):
    """What this route needs of `app.state.steelyard`."""

    @property
    def settings(self) -> Settings: ...
    @property
    def database(self) -> Database: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def authenticator(self) -> Authenticator: ...
    @property
    def bus(self) -> ChangeBus: ...
    @property
    def cache(self) -> BalanceCache: ...


class Given(BaseModel):
    """A body from outside: no unknown fields, names of the reference or in snake_case."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        populate_by_name=True,
        alias_generator=lambda name: (
            name.split("_")[0] + "".join(word.capitalize() for word in name.split("_")[1:])
        ),
    )


Word = Annotated[StrictStr, Field(max_length=200)]
Name = Annotated[StrictStr, Field(max_length=200)] | Annotated[StrictInt, Field(ge=0, lt=2**63)]


class GivenEnrolledAccount(Given):
    """An account at the core bank. What is left out stays, or is active and not primary."""

    account_number: Name
    account_type: Word | None = None
    currency: Word | None = None
    is_primary: StrictBool | None = None
    is_active: StrictBool | None = None
    balance: Annotated[
        Word | None,
        Field(description="In major units; taken for an account that was never read"),
    ] = None
    balance_as_of: Annotated[
        Word | None, Field(description="When `balance` was true, RFC 3339 with a zone")
    ] = None
    is_joint: Annotated[
        StrictBool | None, Field(description="The number may belong to another user as well")
    ] = None


class GivenEnrolledUser(Given):
    """A user with accounts at the core bank. What is left out stays."""

    id: Name | None = None
    username: Name | None = None
    context: Word | None = None
    is_active: StrictBool | None = None
    customer_number: Name | None = None
    display_name: Word | None = None
    account_number: Annotated[
        Name | None, Field(description="The primary account, where `accounts` does not say it")
    ] = None
    currency: Annotated[Word | None, Field(description="Of `accountNumber`")] = None
    accounts: Annotated[
        list[GivenEnrolledAccount] | None, Field(max_length=ACCOUNTS_OF_USER_MAX)
    ] = None


class GivenEnrolment(Given):
    """Users to be enrolled in one call."""

    users: Annotated[list[GivenEnrolledUser], Field(min_length=1, max_length=ITEMS_MAX)]
    currency: Annotated[Word | None, Field(description="Of new accounts that name none")] = None


class ToldEnrolledAccount(BaseModel):
    """What became of one account: created, updated or unchanged."""

    account: str | None
    outcome: str


class ToldProblem(BaseModel):
    """Why an item was refused; nothing of it was written."""

    field: str
    code: str
    reason: str


class ToldEnrolledUser(BaseModel):
    """What became of one item: created, updated, unchanged or refused. Accounts in the order given."""

    id: str | None
    outcome: str
    accounts: list[ToldEnrolledAccount]
    problem: ToldProblem | None


class ToldEnrolment(BaseModel):
    """What became of every item, in the order given."""

    data: list[ToldEnrolledUser]
    created: int
    updated: int
    unchanged: int
    refused: int


async def enroll(
    request: Request,
    body: GivenEnrolment,
    principal: Annotated[Principal, Depends(requires(Permission.USERS_WRITE))],
) -> ToldEnrolment:
    """Bring up to 1,000 users and their accounts to what is said of them; each has its own outcome, a repeat is safe."""
    if sum(len(one.accounts or ()) for one in body.users) > ACCOUNTS_IN_CALL_MAX:
        problem = f"a call takes at most {ACCOUNTS_IN_CALL_MAX:,} accounts of all users together"
        raise InvalidInput(field="users", problem=problem)
    services = cast(EnrolmentServices, request.app.state.steelyard)
    call = EnrolmentCall(
        principal,
        enrollment_of(services.settings, CORE_BANK),
        None if body.currency is None else find_currency(body.currency),
        getattr(request.state, "request_id", None),
    )
    items = [one.model_dump(exclude_unset=True) for one in body.users]
    async with services.database.unit_of_work(principal.tenant) as uow:
        enrolled = await enroll_items(uow, items, call, now=services.clock.now())
    for user in enrolled.forgotten:
        services.authenticator.forget_user(principal.tenant, user)
    PublishReadings(services.bus, services.cache)(enrolled.events)
    counts = enrolled.counts
    return ToldEnrolment(
        data=[_tell(one) for one in enrolled.outcomes],
        **{word: counts[word] for word in ("created", "updated", "unchanged", "refused")},
    )


def add_route(router: APIRouter) -> None:
    """Put the route beside those of `sync.api`."""
    router.add_api_route("/users", enroll, methods=["POST"], responses=_REFUSALS)


def _tell(one: ItemOutcome) -> ToldEnrolledUser:
    if one.enrolled is None:
        assert one.refused is not None, "an item is enrolled or refused"
        problem = ToldProblem(
            field=one.refused.field, code=one.refused.code.value, reason=one.refused.reason
        )
        return ToldEnrolledUser(id=one.refused.user, outcome=one.word, accounts=[], problem=problem)
    accounts = [
        ToldEnrolledAccount(account=None if account is None else str(account), outcome=outcome)
        for account, outcome in one.enrolled.accounts
    ]
    return ToldEnrolledUser(id=one.enrolled.id, outcome=one.word, accounts=accounts, problem=None)
