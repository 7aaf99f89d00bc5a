"""Who may do what: one table, and whatever is not in it is refused."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from steelyard.access.errors import Forbidden
from steelyard.access.model import Principal, Role
from steelyard.core.errors import NotFound
from steelyard.core.ids import UserId


class Permission(StrEnum):
    """Every act a route or socket event can ask a permission for."""

    BALANCE_READ = "balance:read"
    TRANSACTIONS_READ = "transactions:read"
    ACCOUNTS_READ = "accounts:read"
    ACCOUNTS_WRITE = "accounts:write"
    USERS_READ = "users:read"
    USERS_WRITE = "users:write"
    MONEY_CHARGE = "money:charge"
    MONEY_RECHARGE = "money:recharge"
    MONEY_HOLD = "money:hold"
    MONEY_TRANSFER = "money:transfer"
    MONEY_REVERSE = "money:reverse"
    MONEY_BOOK = "money:book"
    MONEY_FORCE = "money:force"
    MONEY_ADJUST = "money:adjust"
    TOPUP_REQUEST = "topup:request"
    TOPUP_READ = "topup:read"
    TOPUP_PROCESS = "topup:process"
    LIVE_CONNECT = "live:connect"
    SYNC_READ = "sync:read"
    SYNC_RUN = "sync:run"
    SYNC_CONTROL = "sync:control"
    RUNS_READ = "runs:read"
    RUNS_MANAGE = "runs:manage"
    SCHEDULES_READ = "schedules:read"
    SCHEDULES_WRITE = "schedules:write"
    RECONCILE_READ = "reconcile:read"
    RECONCILE_RUN = "reconcile:run"
    RECONCILE_FIX = "reconcile:fix"
    TENANT_READ = "tenant:read"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    AUDIT_READ = "audit:read"


_EVERYONE: Final = frozenset(Role)
_READERS: Final = frozenset({Role.OPERATOR, Role.ADMIN, Role.SERVICE})
_BACKEND: Final = frozenset({Role.SERVICE, Role.ADMIN})
_OVERSIGHT: Final = frozenset({Role.OPERATOR, Role.ADMIN})
_ADMIN: Final = frozenset({Role.ADMIN})

# A user reaches only what is its own: `check_owner` says so for each thing that is named.
# A service never approves a top-up.
ALLOWED: Final[Mapping[str, frozenset[Role]]] = {
    Permission.BALANCE_READ: _EVERYONE,
    Permission.TRANSACTIONS_READ: _EVERYONE,
    Permission.ACCOUNTS_READ: _EVERYONE,
    Permission.ACCOUNTS_WRITE: _BACKEND,
    Permission.USERS_READ: _READERS,
    Permission.USERS_WRITE: _BACKEND,
    Permission.MONEY_CHARGE: _BACKEND,
    Permission.MONEY_RECHARGE: _BACKEND,
    Permission.MONEY_HOLD: _BACKEND,
    Permission.MONEY_TRANSFER: _BACKEND,
    Permission.MONEY_REVERSE: _BACKEND,
    Permission.MONEY_BOOK: frozenset({Role.USER, Role.SERVICE, Role.ADMIN}),
    Permission.MONEY_FORCE: _ADMIN,
    Permission.MONEY_ADJUST: _ADMIN,
    Permission.TOPUP_REQUEST: frozenset({Role.USER, Role.SERVICE, Role.ADMIN}),
    Permission.TOPUP_READ: _EVERYONE,
    Permission.TOPUP_PROCESS: _ADMIN,
    Permission.LIVE_CONNECT: _EVERYONE,
    Permission.SYNC_READ: _EVERYONE,
    Permission.SYNC_RUN: frozenset({Role.USER, Role.SERVICE, Role.ADMIN}),
    Permission.SYNC_CONTROL: _OVERSIGHT,
    Permission.RUNS_READ: _READERS,
    Permission.RUNS_MANAGE: _OVERSIGHT,
    Permission.SCHEDULES_READ: _OVERSIGHT,
    Permission.SCHEDULES_WRITE: _ADMIN,
    Permission.RECONCILE_READ: _OVERSIGHT,
    Permission.RECONCILE_RUN: _OVERSIGHT,
    Permission.RECONCILE_FIX: _ADMIN,
    Permission.TENANT_READ: _READERS,
    Permission.KEYS_READ: _ADMIN,
    Permission.KEYS_WRITE: _ADMIN,
    Permission.AUDIT_READ: _OVERSIGHT,
}


def is_allowed(principal: Principal, permission: str) -> bool:
    """Say whether the principal's role has the permission; a name that is not in the table is refused."""
    return principal.role in ALLOWED.get(permission, ())


def require(principal: Principal, permission: str) -> None:
    """Let the principal pass, or refuse.

    Raises:
        Forbidden: Its role has not this permission, or there is no such permission.
    """
    if not is_allowed(principal, permission):
        raise Forbidden(role=principal.role, permission=permission)


def check_owner(principal: Principal, owner: UserId | None, *, kind: str, identifier: str) -> None:
    """Let a user pass to what is its own only; other roles reach everything in their tenant.

    Raises:
        NotFound: A user named a thing that is not its own; whether it exists is not told.
    """
    if principal.role is Role.USER and (owner is None or owner != principal.user):
        raise NotFound(kind=kind, identifier=identifier)
