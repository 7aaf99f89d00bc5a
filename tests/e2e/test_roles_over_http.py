"""Who may do what: every route with every role, and no route that asks for nothing unless it is public."""

from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from steelyard.access.model import Role
from steelyard.access.roles import ALLOWED
from steelyard.app import create_app, permissions_of
from steelyard.live.client_events import CLIENT_EVENTS
from steelyard.live.sse import STREAM_PATH
from steelyard.runtime.health import PUBLIC
from steelyard.runtime.settings import Settings
from tests.e2e.scene import Scene, assert_problem
from tests.e2e.server_kit import bearer, key

PAGE_PATHS = {
    "/",
    "/api/live/page-sessions",
    *(
        f"/live/{name}"
        for name in ("page.css", "page.js", "board.js", "bank.js", "connection.js", "icon.svg")
    ),
}
PUBLIC_PATHS = {
    *("/livez", "/readyz", "/metrics", "/docs", "/docs.js", "/openapi.json"),
    *PAGE_PATHS,
    "/api/sync/status",
    "/api/jobs/status",
}
ROUTES = create_app(Settings()).routes
PERMISSIONS = permissions_of(ROUTES)
EVERY = [
    (method, context.original_route.path)  # type: ignore[attr-defined]
    for context in iter_route_contexts(ROUTES)
    for method in sorted(getattr(context.original_route, "methods", None) or ())
    if method != "HEAD"
]


def test_every_route_declares_its_permission() -> None:
    assert len(EVERY) > 40
    undeclared = [
        f"{method} {path}" for method, path in EVERY if f"{method} {path}" not in PERMISSIONS
    ]
    assert undeclared == []


def test_only_the_named_routes_are_public() -> None:
    public = {name.split(" ")[1] for name, needed in PERMISSIONS.items() if needed == PUBLIC}
    assert public == PUBLIC_PATHS


def test_every_permission_is_in_the_table() -> None:
    assert set(PERMISSIONS.values()) - {PUBLIC} <= set(ALLOWED)


def _filled(path: str, account: str) -> str:
    values = {"account": account, "hold": f"{account}-1", "transaction": f"{account}-1"}
    parts = [
        values.get(part[1:-1], "0") if part.startswith("{") else part for part in path.split("/")
    ]
    return "/".join(parts)


GUARDED = [(method, path) for method, path in EVERY if path not in PUBLIC_PATHS]


@pytest.mark.parametrize(("method", "path"), GUARDED, ids=str)
async def test_a_route_lets_in_the_roles_of_its_permission_and_nobody_else(
    scene: Scene, method: str, path: str
) -> None:
    owned = await scene.own()
    allowed = ALLOWED[PERMISSIONS[f"{method} {path}"]]
    target = _filled(path, owned.account)
    before = await scene.written()
    for role in Role:
        if role in allowed:
            continue
        headers = {**bearer(owned.user, role), **key()}
        body: Any = None if method == "GET" else {"amount": 1}
        answer = await scene.server.call(method, target, json=body, headers=headers)
        problem = assert_problem(answer, 403, "forbidden")
        assert (problem["role"], problem["permission"]) == (role, PERMISSIONS[f"{method} {path}"])
    nobody = await scene.server.call(method, target, headers=key())
    assert_problem(nobody, 401, "unauthenticated")
    assert await scene.written() == before
    for role in allowed:
        if path == STREAM_PATH:
            continue  # it goes on for ever: tests/e2e/test_sse.py
        # A body that nothing can be made of shows that the door was passed, and changes nothing.
        headers = {**bearer(owned.user, role), **key()}
        answer = await scene.server.call(method, target, content=b'{"\\u0000": 1}', headers=headers)
        assert answer.status_code not in (401, 403) or "requester" in answer.text


def test_every_socket_event_declares_a_permission_of_the_table() -> None:
    """Connecting is `live:connect`, of which `tests/store/test_live_gateway.py` tries every role."""
    assert CLIENT_EVENTS
    for name, event in CLIENT_EVENTS.items():
        assert event.permission in ALLOWED, name


async def test_only_an_admin_may_force_a_reversal(scene: Scene) -> None:
    owned = await scene.own(100)
    await scene.post(owned, "charges", {"amount": 100})
    body = {"transaction": f"{owned.account}-1", "force": True}
    for role in (Role.USER, Role.OPERATOR, Role.SERVICE):
        answer = await scene.server.call(
            "POST",
            f"/api/accounts/{owned.account}/reversals",
            json=body,
            headers={**bearer("someone", role), **key()},
        )
        assert_problem(answer, 403, "forbidden")
    assert (await scene.balance(owned))["posted"] == 0
