"""What goes over the wire about users, keys, tenants and audit: strict in, plain out."""

from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictInt,
    StrictStr,
)

from steelyard.access.model import ApiKey, AuditLine, Tenant, User
from steelyard.access.users import BULK_MAX
from steelyard.core.clock import format_utc

Item = TypeVar("Item")


class Given(BaseModel):
    """A body from outside: no unknown fields, no conversion between kinds of values."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Told(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


def _as_moment(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("a moment is text of RFC 3339 with a zone")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("a moment needs a zone, such as Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a moment lies within the years 1 to 9999") from None


def _as_text(value: str | int) -> str:
    return str(value)


GivenMoment = Annotated[
    datetime,
    BeforeValidator(
        _as_moment,
        json_schema_input_type=Annotated[str, Field(json_schema_extra={"format": "date-time"})],
    ),
]
ToldMoment = Annotated[
    datetime,
    PlainSerializer(format_utc, return_type=str),
]
GivenUserId = Annotated[
    Annotated[StrictStr, Field(min_length=1, max_length=128)]
    | Annotated[StrictInt, Field(ge=0, lt=2**63)],
    AfterValidator(_as_text),
]
StatusName = Literal["active", "inactive"]
KeyRoleName = Literal["service", "operator", "admin"]
DisplayName = Annotated[str, Field(max_length=200)]


class Page(Told, Generic[Item]):
    """One page; `next_cursor` leads to the next where there is more."""

    data: list[Item]
    next_cursor: str | None
    has_more: bool


class GivenUser(Given):
    """A user to be made."""

    id: GivenUserId
    display_name: DisplayName | None = None
    status: StatusName | None = None


class GivenUsers(Given):
    """Users to be made or changed in one call."""

    users: Annotated[list[GivenUser], Field(min_length=1, max_length=BULK_MAX)]


class GivenUserEdit(Given):
    """What to change; what is left out stays. `display_name: null` removes the name."""

    display_name: DisplayName | None = None
    status: StatusName = "active"
    revoke_tokens: bool = False


class ToldUser(Told):
    """A user."""

    id: str
    display_name: str | None
    status: StatusName
    tokens_valid_from: ToldMoment | None
    created_at: ToldMoment


class ToldRow(Told):
    """What became of one row of a bulk call."""

    id: str
    outcome: Literal["created", "updated", "unchanged", "refused"]
    problem: str | None


class ToldRows(Told):
    """What became of every row, in the order given."""

    data: list[ToldRow]
    created: int
    updated: int
    unchanged: int
    refused: int


class GivenKey(Given):
    """An API key to be made."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: KeyRoleName
    expires_at: GivenMoment | None = None


class ToldKey(Told):
    """An API key without its secret."""

    id: str
    name: str
    role: KeyRoleName
    created_by: str
    created_at: ToldMoment
    expires_at: ToldMoment | None
    revoked_at: ToldMoment | None


class ToldNewKey(ToldKey):
    """An API key just made; `key` is shown this once."""

    key: str


class ToldAuditLine(Told):
    """One act."""

    id: str
    at: ToldMoment
    actor: str
    actor_role: str
    action: str
    target: str | None
    outcome: str
    request_id: str | None
    details: dict[str, Any] | None


class ToldTenant(Told):
    """The caller's own tenant."""

    id: str
    name: str
    time_zone: str
    status: Literal["active", "suspended"]
    created_at: ToldMoment


def tell_user(user: User) -> ToldUser:
    """Return a user as it goes over the wire."""
    return ToldUser(
        id=user.id,
        display_name=user.display_name,
        status=user.status.value,
        tokens_valid_from=user.tokens_valid_from,
        created_at=user.created_at,
    )


def tell_key(key: ApiKey) -> ToldKey:
    """Return a key as it goes over the wire."""
    return ToldKey.model_validate(_key_facts(key))


def tell_new_key(key: ApiKey, text: str) -> ToldNewKey:
    """Return a new key as it goes over the wire, this once with its secret."""
    return ToldNewKey.model_validate({**_key_facts(key), "key": text})


def tell_audit_line(line: AuditLine) -> ToldAuditLine:
    """Return an audit line as it goes over the wire."""
    return ToldAuditLine(
        id=str(line.id),
        at=line.at,
        actor=line.actor,
        actor_role=line.actor_role,
        action=line.action,
        target=line.target,
        outcome=line.outcome,
        request_id=line.request_id,
        details=None if line.details is None else dict(line.details),
    )


def tell_tenant(tenant: Tenant) -> ToldTenant:
    """Return a tenant as it goes over the wire."""
    return ToldTenant(
        id=tenant.id,
        name=tenant.name,
        time_zone=tenant.time_zone,
        status=tenant.status.value,
        created_at=tenant.created_at,
    )


def _key_facts(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "created_by": key.created_by,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
