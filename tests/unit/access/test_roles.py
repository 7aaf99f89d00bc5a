"""What no table allows is refused."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.access.errors import Forbidden
from steelyard.access.guard_route import requires
from steelyard.access.model import Principal, Role
from steelyard.access.roles import ALLOWED, Permission, check_owner, is_allowed, require
from steelyard.core.errors import NotFound
from steelyard.core.ids import DEFAULT_TENANT, UserId

USER, SERVICE = {Role.USER}, {Role.SERVICE}
EVERYONE, ADMIN = set(Role), {Role.ADMIN}
BACKEND, OVERSIGHT = {Role.SERVICE, Role.ADMIN}, {Role.OPERATOR, Role.ADMIN}
NOT_OPERATOR = {Role.USER, Role.SERVICE, Role.ADMIN}
READERS = {Role.SERVICE, Role.OPERATOR, Role.ADMIN}

EXPECTED = {
    "balance:read": EVERYONE,
    "transactions:read": EVERYONE,
    "accounts:read": EVERYONE,
    "topup:read": EVERYONE,
    "live:connect": EVERYONE,
    "sync:read": EVERYONE,
    "users:read": READERS,
    "runs:read": READERS,
    "tenant:read": READERS,
    "accounts:write": BACKEND,
    "users:write": BACKEND,
    "money:charge": BACKEND,
    "money:recharge": BACKEND,
    "money:hold": BACKEND,
    "money:transfer": BACKEND,
    "money:reverse": BACKEND,
    "money:book": NOT_OPERATOR,
    "topup:request": NOT_OPERATOR,
    "sync:run": NOT_OPERATOR,
    "sync:control": OVERSIGHT,
    "runs:manage": OVERSIGHT,
    "schedules:read": OVERSIGHT,
    "reconcile:read": OVERSIGHT,
    "reconcile:run": OVERSIGHT,
    "audit:read": OVERSIGHT,
    "schedules:write": ADMIN,
    "money:force": ADMIN,
    "money:adjust": ADMIN,
    "topup:process": ADMIN,
    "reconcile:fix": ADMIN,
    "keys:read": ADMIN,
    "keys:write": ADMIN,
}


def caller(role: Role, user: str | None = "42") -> Principal:
    return Principal(DEFAULT_TENANT, user or "key:x", role, None if user is None else UserId(user))


def test_the_matrix_is_this_one() -> None:
    assert {name: set(roles) for name, roles in ALLOWED.items()} == EXPECTED
    assert {permission.value for permission in Permission} == set(EXPECTED)


@pytest.mark.parametrize(("role", "permission"), list(product(Role, EXPECTED)))
def test_require_lets_in_exactly_those_of_the_matrix(role: Role, permission: str) -> None:
    if role in EXPECTED[permission]:
        require(caller(role), permission)
        return
    with pytest.raises(Forbidden) as refused:
        require(caller(role), permission)
    assert refused.value.fields() == {"role": role.value, "permission": permission}


@given(st.sampled_from(Role), st.text())
def test_unknown_permission_is_refused_to_everyone(role: Role, name: str) -> None:
    assert is_allowed(caller(role), name) is (role in EXPECTED.get(name, set()))


def test_route_with_an_unknown_permission_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="money:chrage"):
        requires("money:chrage")
    assert requires("money:charge").permission == "money:charge"


@pytest.mark.parametrize("owner", ["43", None])
def test_user_does_not_learn_of_what_is_not_its_own(owner: Any) -> None:
    with pytest.raises(NotFound):
        check_owner(caller(Role.USER), owner, kind="account", identifier="7")
    for role in (Role.OPERATOR, Role.ADMIN, Role.SERVICE):
        check_owner(caller(role, None), owner, kind="account", identifier="7")


def test_user_reaches_its_own() -> None:
    check_owner(caller(Role.USER), UserId("42"), kind="account", identifier="7")
