"""The plain facts about who asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from steelyard.core.ids import TenantId, UserId

KEY_SUBJECT = "key:"
SYSTEM_SUBJECT = "system:"
RESERVED_SUBJECTS = (KEY_SUBJECT, SYSTEM_SUBJECT)
"""Beginnings of subjects that no token may carry, so that an audit line names one actor only."""


class Role(StrEnum):
    """What a caller is; `roles.py` says what each may do."""

    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose word has been checked.

    `subject` is a token's `sub`, or `key:<id>` for an API key, or `system:<name>` for the product
    itself. `user` is the token's `sub`; None for keys and for the product itself.
    """

    tenant: TenantId
    subject: str
    role: Role
    user: UserId | None


@dataclass(frozen=True, slots=True)
class Authentication:
    """A principal and until when the credential holds (UTC; None: no end)."""

    principal: Principal
    expires_at: datetime | None


class TenantStatus(StrEnum):
    """Whether a tenant's callers are let in."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Tenant:
    """An organisation whose data never mixes with another's; `time_zone` is an IANA name."""

    id: TenantId
    name: str
    time_zone: str
    status: TenantStatus
    created_at: datetime


class UserStatus(StrEnum):
    """Whether a user's tokens are taken."""

    ACTIVE = "active"
    INACTIVE = "inactive"


@dataclass(frozen=True, slots=True)
class User:
    """A person or thing that owns accounts. Tokens issued before `tokens_valid_from` are refused."""

    tenant: TenantId
    id: UserId
    display_name: str | None
    status: UserStatus
    tokens_valid_from: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of a program, without its secret."""

    tenant: TenantId
    id: str
    name: str
    role: Role
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One act as it was recorded; `details` are JSON values."""

    id: int
    at: datetime
    actor: str
    actor_role: str
    action: str
    target: str | None
    outcome: str
    request_id: str | None
    details: Mapping[str, object] | None


def system_principal(tenant: TenantId, name: str) -> Principal:
    """Return who acts when the product itself does: `system:<name>` with the rights of an admin."""
    return Principal(tenant, f"{SYSTEM_SUBJECT}{name}", Role.ADMIN, None)
