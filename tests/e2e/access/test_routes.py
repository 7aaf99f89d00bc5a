"""Users, keys, audit and tenant over HTTP: who may, what is answered, what is left behind."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from steelyard.access.api import router
from steelyard.access.authenticate import Authenticator
from steelyard.access.guard_route import Requires
from steelyard.access.model import Role
from steelyard.access.roles import ALLOWED
from steelyard.core.errors import SteelyardError
from steelyard.runtime.database import Database
from steelyard.runtime.problems import problem_of
from steelyard.testing.clock import FrozenClock
from tests.store.access.access_kit import Door, make_tenants, token

ADMIN, SERVICE = token("acme", "boss", role="admin"), token("acme", "app", role="service")


@dataclass(frozen=True)
class Services:
    database: Database
    clock: FrozenClock
    authenticator: Authenticator


@dataclass
class Api:
    """The routes behind a real HTTP client."""

    client: httpx2.AsyncClient
    door: Door

    async def call(
        self, method: str, path: str, body: Any = None, *, by: str | None = ADMIN
    ) -> httpx2.Response:
        headers = {} if by is None else {"Authorization": f"Bearer {by}"}
        return await self.client.request(method, f"/api{path}", json=body, headers=headers)

    async def done(self, method: str, path: str, body: Any = None, *, by: str = ADMIN) -> Any:
        """Return the answer's body; the call must have succeeded."""
        answer = await self.call(method, path, body, by=by)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()


async def tell(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    return Response(problem.encode("r-1"), problem.status, media_type="application/problem+json")


@pytest.fixture
async def api(database: Database) -> AsyncIterator[Api]:
    await make_tenants(database)
    door = Door.on(database)
    app = FastAPI()
    app.include_router(router)
    app.add_exception_handler(SteelyardError, tell)
    app.add_exception_handler(RequestValidationError, tell)
    app.state.steelyard = Services(database, door.clock, door.authenticator)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://steelyard") as client:
        yield Api(client, door)


def permission_of(route: APIRoute) -> str:
    [permission] = [
        one.call.permission
        for one in route.dependant.dependencies
        if isinstance(one.call, Requires)
    ]
    return permission


ROUTES = {
    (method, route.path): permission_of(route)
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods or ()
}


def test_every_route_declares_its_permission() -> None:
    assert ROUTES == {
        ("POST", "/api/users"): "users:write",
        ("GET", "/api/users"): "users:read",
        ("POST", "/api/users/bulk"): "users:write",
        ("GET", "/api/users/{id}"): "users:read",
        ("PATCH", "/api/users/{id}"): "users:write",
        ("POST", "/api/keys"): "keys:write",
        ("GET", "/api/keys"): "keys:read",
        ("DELETE", "/api/keys/{id}"): "keys:write",
        ("GET", "/api/audit"): "audit:read",
        ("GET", "/api/tenant"): "tenant:read",
    }


async def test_each_role_reaches_exactly_what_it_may(api: Api) -> None:
    for (method, path), role in product(ROUTES, Role):
        answer = await api.call(
            method, path.removeprefix("/api").format(id="nobody"), by=token("acme", role=role.value)
        )
        is_allowed = role in ALLOWED[ROUTES[method, path]]
        assert (answer.status_code == 403) is not is_allowed, (method, path, role)
        if not is_allowed:
            assert answer.json()["code"] == "forbidden"


async def test_nobody_reaches_anything(api: Api) -> None:
    for method, path in ROUTES:
        for by in (None, "x", token("acme", exp=1), token("nobody", role="admin")):
            answer = await api.call(method, path.removeprefix("/api").format(id="42"), by=by)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


async def test_user_is_made_once_and_told_again(api: Api) -> None:
    first = await api.call("POST", "/users", {"id": 42, "display_name": "Ann"}, by=SERVICE)
    again = await api.call("POST", "/users", {"id": "42", "display_name": "Ann"}, by=SERVICE)
    other = await api.call("POST", "/users", {"id": "42", "display_name": "Bob"}, by=SERVICE)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json() == again.json() == await api.done("GET", "/users/42")
    assert first.json() == {
        "id": "42",
        "display_name": "Ann",
        "status": "active",
        "tokens_valid_from": None,
        "created_at": "2026-01-01T00:00:00Z",
    }
    assert other.json()["code"] == "user_exists"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/users", {}),
        ("/users", {"id": ""}),
        ("/users", {"id": True}),
        ("/users", {"id": 1.0}),
        ("/users", {"id": -1}),
        ("/users", {"id": "x" * 129}),
        ("/users", {"id": "a\nb"}),
        ("/users", {"id": "key:x"}),
        ("/users", {"id": "42", "status": "gone"}),
        ("/users", {"id": "42", "display_name": 7}),
        ("/users", {"id": "42", "display_name": "a\u202eb"}),
        ("/users", {"id": "42", "role": "admin"}),
        ("/users", {"id": "42", "tenant": "zeta"}),
        ("/users/bulk", {"users": []}),
        ("/users/bulk", {"users": {}}),
        ("/users/bulk", {"users": [{"id": "42", "extra": 1}]}),
        ("/users/bulk", {"users": [{"id": "u"}] * 10_001}),
        ("/keys", {"name": "till"}),
        ("/keys", {"name": "till", "role": "user"}),
        ("/keys", {"name": "", "role": "admin"}),
        ("/keys", {"name": "till", "role": "admin", "expires_at": 4102444800}),
        ("/keys", {"name": "till", "role": "admin", "expires_at": "2027-01-01T00:00:00"}),
        ("/keys", {"name": "till", "role": "admin", "expires_at": "2020-01-01T00:00:00Z"}),
        ("/keys", {"name": "till", "role": "admin", "expires_at": "0001-01-01T00:00:00+09:00"}),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_body_that_is_not_exact_is_refused_and_changes_nothing(
    api: Api, path: str, body: Any
) -> None:
    answer = await api.call("POST", path, body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert (await api.done("GET", "/users"))["data"] == []
    assert (await api.done("GET", "/keys"))["data"] == []
    assert (await api.done("GET", "/audit"))["data"] == []


async def test_bulk_answers_each_row_and_counts(api: Api) -> None:
    body = {"users": [{"id": "a"}, {"id": 7, "display_name": "Seven"}, {"id": "a"}]}
    answer = await api.done("POST", "/users/bulk", body, by=SERVICE)
    counts = {name: answer[name] for name in ("created", "updated", "unchanged", "refused")}
    assert [row["outcome"] for row in answer["data"]] == ["created", "created", "refused"]
    assert counts == {"created": 2, "updated": 0, "unchanged": 0, "refused": 1}
    [line] = (await api.done("GET", "/audit"))["data"]
    assert (line["action"], line["actor"], line["details"]) == ("users.upsert", "app", counts)


async def test_pages_hold_every_user_once_in_order(api: Api) -> None:
    ids = [*sorted(f"u{number}" for number in range(25)), "é", "😀"]
    await api.done("POST", "/users/bulk", {"users": [{"id": one} for one in ids]})
    seen: list[str] = []
    query = "?limit=7"
    while query:
        page = await api.done("GET", f"/users{query}")
        seen += [user["id"] for user in page["data"]]
        assert page["has_more"] is (page["next_cursor"] is not None)
        query = f"?limit=7&cursor={page['next_cursor']}" if page["has_more"] else ""
    assert seen == ids


@pytest.mark.parametrize(
    "query", ["cursor=x", "cursor=", "limit=0", "limit=201", "limit=x", "cursor=WyJrZXlzIiwiYSJd"]
)
@pytest.mark.parametrize("path", ["/users", "/keys", "/audit"])
async def test_page_that_is_none_of_ours_is_refused(api: Api, path: str, query: str) -> None:
    answer = await api.call("GET", f"{path}?{query}")
    if (path, query) == ("/keys", "cursor=WyJrZXlzIiwiYSJd"):
        assert answer.status_code == 200  # this one is a cursor of the keys
        return
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_change_leaves_out_what_is_left_out(api: Api) -> None:
    await api.done("POST", "/users", {"id": "42", "display_name": "Ann"})
    assert (await api.done("PATCH", "/users/42", {"status": "inactive"}))["display_name"] == "Ann"
    told = await api.done("PATCH", "/users/42", {"display_name": None})
    assert (told["display_name"], told["status"]) == (None, "inactive")
    for path in ("/users/43", "/users/%0A", "/users/" + "x" * 128):
        answer = await api.call("PATCH", path, {"status": "active"})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_revoking_refuses_the_users_tokens_at_once(api: Api) -> None:
    clerk = token("acme", "clerk", role="operator")
    await api.done("POST", "/users", {"id": "clerk"})
    await api.done("GET", "/users", by=clerk)
    api.door.clock.move(timedelta(seconds=1))
    told = await api.done("PATCH", "/users/clerk", {"revoke_tokens": True})
    assert told["tokens_valid_from"] == "2026-01-01T00:00:01Z"
    answer = await api.call("GET", "/users", by=clerk)
    assert (answer.status_code, answer.json()["reason"]) == (401, "revoked")


async def test_key_works_until_it_is_revoked_and_is_shown_once(api: Api) -> None:
    order = {"name": "till", "role": "service", "expires_at": "2027-01-01T02:00:00+02:00"}
    made = await api.done("POST", "/keys", order)
    key = made.pop("key")
    assert key.startswith(f"sk_{made['id']}_")
    assert made["expires_at"] == "2027-01-01T00:00:00Z"
    await api.done("POST", "/users", {"id": "42"}, by=key)
    listed = await api.call("GET", "/keys")
    assert listed.json() == {"data": [made], "next_cursor": None, "has_more": False}
    assert key.rpartition("_")[2] not in listed.text

    revoked = await api.done("DELETE", f"/keys/{made['id']}")
    assert revoked == {**made, "revoked_at": "2026-01-01T00:00:00Z"}
    assert (await api.call("GET", "/users", by=key)).status_code == 401
    assert await api.done("DELETE", f"/keys/{made['id']}") == revoked
    assert (await api.call("DELETE", "/keys/0123456789abcdef")).status_code == 404


async def test_every_act_is_on_record_with_its_actor(api: Api) -> None:
    made = await api.done("POST", "/keys", {"name": "till", "role": "service"})
    await api.done("POST", "/users", {"id": "42"}, by=made["key"])
    await api.done("POST", "/users", {"id": "42"}, by=made["key"])  # changes nothing
    await api.done("PATCH", "/users/42", {"revoke_tokens": True})
    await api.done("DELETE", f"/keys/{made['id']}")
    record = await api.call("GET", "/audit")
    assert [(line["actor"], line["action"], line["target"]) for line in record.json()["data"]] == [
        ("boss", "key.revoke", f"key:{made['id']}"),
        ("boss", "user.change", "user:42"),
        (f"key:{made['id']}", "user.create", "user:42"),
        ("boss", "key.create", f"key:{made['id']}"),
    ]
    assert made["key"].rpartition("_")[2] not in record.text


async def test_other_tenant_sees_nothing_of_it(api: Api) -> None:
    made = await api.done("POST", "/keys", {"name": "till", "role": "admin"})
    await api.done("POST", "/users", {"id": "42"})
    other = token("zeta", "boss", role="admin")
    for path in ("/users", "/keys", "/audit"):
        assert (await api.done("GET", path, by=other))["data"] == []
    for method, path in (
        ("GET", "/users/42"),
        ("PATCH", "/users/42"),
        ("DELETE", f"/keys/{made['id']}"),
    ):
        answer = await api.call(method, path, {} if method == "PATCH" else None, by=other)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await api.done("GET", "/tenant", by=other))["id"] == "zeta"
    assert (await api.done("GET", "/tenant"))["id"] == "acme"
