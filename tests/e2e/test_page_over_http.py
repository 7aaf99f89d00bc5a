"""The live page's files and its exchange, as a server without one-time addresses answers them."""

import pytest

from tests.e2e.scene import assert_problem
from tests.e2e.server_kit import Server

FILES = {
    "/": "text/html",
    "/live/page.css": "text/css",
    "/live/page.js": "text/javascript",
    "/live/board.js": "text/javascript",
    "/live/bank.js": "text/javascript",
    "/live/connection.js": "text/javascript",
    "/live/icon.svg": "image/svg+xml",
}


@pytest.mark.parametrize("path", FILES)
async def test_a_file_of_the_page_is_answered_with_a_policy_that_lets_nothing_else_run(
    server: Server, path: str
) -> None:
    answer = await server.call("GET", path, headers={})
    policy = answer.headers["content-security-policy"]
    assert (answer.status_code, answer.headers["content-type"]) == (
        200,
        f"{FILES[path]}; charset=utf-8",
    )
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_a_server_exchanges_no_codes(server: Server) -> None:
    path = "/api/live/page-sessions"
    refused = await server.call("POST", path, json={"code": "some"}, headers={})
    assert_problem(refused, 404, "not_found")
    for body in (
        {},
        {"code": ""},
        {"code": 1},
        {"code": "a" * 129},
        {"code": "a", "role": "admin"},
    ):
        refused = await server.call("POST", path, json=body, headers={})
        assert_problem(refused, 422, "invalid_input")
    refused = await server.call("POST", path, content=b"{", headers={})
    assert_problem(refused, 400, "malformed_body")
    as_form = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = await server.call("POST", path, content=b"code=some", headers=as_form)
    assert_problem(refused, 415, "unsupported_media_type")
