"""Whatever is sent: a problem document with a stable code, never a 5xx, and nothing written."""

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from steelyard.access.model import Role
from steelyard.core.money import LARGEST_MINOR
from tests.e2e.scene import Owned, Scene, assert_problem
from tests.e2e.server_kit import bearer, key, token

HUGE = 10**40
AMOUNTS: tuple[Any, ...] = (
    "1050",
    10.5,
    True,
    None,
    [],
    {},
    0,
    -1,
    2**53,
    2**63,
    HUGE,
    LARGEST_MINOR + 1,
)
RAW_BODIES = (
    (b"", 422, "invalid_input"),
    (b"nonsense", 400, "malformed_body"),
    (b'{"amount": 1', 400, "malformed_body"),
    (b"[1]", 422, "invalid_input"),
    (b'"text"', 422, "invalid_input"),
    (b"null", 422, "invalid_input"),
    (b'{"amount": NaN}', 400, "malformed_body"),
    (b'{"amount": Infinity}', 400, "malformed_body"),
    (b'{"amount": -Infinity}', 400, "malformed_body"),
    (b'{"amount": 1.0}', 422, "invalid_input"),
    (b'{"amount": 1e3}', 422, "invalid_input"),
    (b'{"amount": 1e400}', 422, "invalid_input"),
    (b'{"amount": 9007199254740993.0}', 422, "invalid_input"),
    (b'{"amount": 01}', 400, "malformed_body"),
    (b'{"amount": ' + b"9" * 5000 + b"}", 400, "malformed_body"),
    (b'{"amount": 1, "amount": 2}', 400, "malformed_body"),
    (b'{"amount": 1, "surprise": 2}', 422, "invalid_input"),
    (b'{"amount": 1, "currency": "gbp"}', 422, "invalid_input"),
    (b'{"amount": 1, "currency": "EUR"}', 422, "currency_mismatch"),
    (b'{"amount": 1, "currency": "XXX"}', 422, "currency_mismatch"),
    (b'{"amount": 1, "currency": 826}', 422, "invalid_input"),
    (b'{"amount": 1, "description": "a\\u0000b"}', 422, "invalid_input"),
    (b'{"amount": 1, "description": "\\ud800"}', 422, "invalid_input"),
    (b'{"amount": 1, "description": "\\udfff\\ud800"}', 422, "invalid_input"),
    (b'{"amount": 1, "description": "\xff\xfe"}', 400, "malformed_body"),
    (b'{"amount": 1, "description": "' + b"x" * 501 + b'"}', 422, "invalid_input"),
    (b'{"amount": 1, "description": 5}', 422, "invalid_input"),
    (b'{"amount": 1, "reference_id": ""}', 422, "invalid_input"),
    (b'\xef\xbb\xbf{"amount": 1}', 400, "malformed_body"),
    (b'{"amount": 1, "x": ' + b"[" * 60 + b"]" * 60 + b"}", 400, "malformed_body"),
    (b"[" * 30_000, 400, "malformed_body"),
    (b'{"\\u0000": 1}', 422, "invalid_input"),
)
HOSTILE = (
    "'; DROP TABLE steelyard.change; --",
    '"; SELECT pg_sleep(10)',
    "{{7*7}}${7*7}<script>alert(1)</script>",
    "\u202e\u2066right to left\u2069",
    "\U0001f4b7 e\u0301 \ufdfa",
    "%s%n%x\\x00\\",
    "../../../../etc/passwd",
)


@pytest.fixture
async def owned(scene: Scene) -> Owned:
    """An account with 10.00 GBP."""
    return await scene.own(1000)


@pytest.mark.parametrize("amount", AMOUNTS, ids=lambda one: str(one)[:24])
async def test_an_amount_that_is_no_amount_moves_nothing(
    scene: Scene, owned: Owned, amount: Any
) -> None:
    before = await scene.written()
    for what in ("charges", "recharges", "refunds", "holds", "transfers"):
        body = {"amount": amount}
        if what == "transfers":
            body["to_account"] = owned.account
        problem = assert_problem(await scene.send(owned, what, body), 422, "invalid_input")
        assert problem["param"] == "amount"
    assert await scene.written() == before


@pytest.mark.parametrize(("body", "status", "code"), RAW_BODIES, ids=lambda one: str(one)[:40])
async def test_a_body_that_is_not_one_clear_thing_moves_nothing(
    scene: Scene, owned: Owned, body: bytes, status: int, code: str
) -> None:
    before = await scene.written()
    answer = await scene.server.call("POST", f"/api/accounts/{owned.account}/charges", content=body)
    assert_problem(answer, status, code)
    assert await scene.written() == before


@pytest.mark.parametrize("amount", ["0", "-5", "1.234", "1e2", "true", '"5"', "1" * 30, "null"])
async def test_major_amounts_are_taken_exactly_or_not_at_all(
    scene: Scene, owned: Owned, amount: str
) -> None:
    before = await scene.written()
    topup = b'{"amount": ' + amount.encode() + b"}"
    booking = b'{"type": "booking", "reference": "r", "amount": ' + amount.encode() + b"}"
    for path, body in (("/transactions/topup", topup), ("/transactions", booking)):
        answer = await scene.server.call(
            "POST", path, content=body, headers={**owned.as_user, **key()}
        )
        assert assert_problem(answer, 422, "invalid_input")["param"] == "amount"
    assert await scene.written() == before


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_texts_are_only_texts(scene: Scene, owned: Owned, text: str) -> None:
    told = await scene.post(owned, "charges", {"amount": 1, "description": text[:500]})
    seen = await scene.server.call("GET", f"/api/transactions/{told['transaction']}")
    assert seen.json()["details"] == {"description": text}
    body = {"user": owned.user, "currency": "GBP", "reference": f"{text}{owned.account}"}
    made = await scene.server.call("POST", "/api/accounts", json=body, headers=bearer())
    assert made.json()["reference"] == f"{text}{owned.account}"


@pytest.mark.parametrize(
    "account",
    [
        "0",
        "-1",
        "1.5",
        "abc",
        "%00",
        "1%00",
        "9" * 40,
        "9223372036854775807",
        "1%2F2",
        "%F0%9F",
        "%D9%A1",
    ],
)
async def test_what_is_no_account_is_not_found(scene: Scene, account: str) -> None:
    before = await scene.written()
    for method, path in (
        ("GET", f"/api/accounts/{account}"),
        ("GET", f"/api/accounts/{account}/balance"),
        ("GET", f"/api/accounts/{account}/changes"),
        ("POST", f"/api/accounts/{account}/charges"),
        ("GET", f"/api/transactions/{account}"),
        ("GET", f"/transactions/topup/{account}"),
        ("POST", f"/api/accounts/{account}/holds/{account}/capture"),
    ):
        body = {"amount": 1} if method == "POST" else None
        answer = await scene.server.call(method, path, json=body)
        assert_problem(answer, 404, "not_found")
    assert await scene.written() == before


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "limit=1&limit=2",
        "after_seq=-1",
        "after_seq=9999999999999999999999",
        "what=1",
        "limit=%00",
        "cursor=%00",
    ],
)
async def test_a_query_that_cannot_be_read_is_refused(
    scene: Scene, owned: Owned, query: str
) -> None:
    path = f"/api/accounts/{owned.account}/changes?{query}"
    assert_problem(await scene.server.call("GET", path, headers=bearer()), 422, "invalid_input")


@pytest.mark.parametrize("cursor", ["x", "!!!!", "e30", "WyJhIiwiYiJd", "%FF", "A" * 2000])
async def test_a_cursor_that_was_never_given_is_refused(
    scene: Scene, owned: Owned, cursor: str
) -> None:
    for path in (
        f"/api/accounts/{owned.account}/history",
        "/api/accounts",
        "/api/transactions",
        "/api/users",
        "/api/audit",
    ):
        headers = owned.as_user if path == "/api/transactions" else bearer()
        answer = await scene.server.call("GET", f"{path}?cursor={cursor}", headers=headers)
        assert_problem(answer, 422, "invalid_input")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/accounts", {"user": "nobody", "currency": "GBP"}, 404, "not_found"),
        ("/api/accounts", {"user": "", "currency": "GBP"}, 422, "invalid_input"),
        ("/api/accounts", {"user": "a\tb", "currency": "GBP"}, 422, "invalid_input"),
        ("/api/accounts", {"user": "x", "currency": "ABC"}, 422, "invalid_input"),
        ("/api/accounts", {"user": "x", "currency": "XAU"}, 422, "invalid_input"),
        ("/api/accounts", {"user": "x", "currency": "GBP", "floor": 2**53}, 422, "invalid_input"),
        ("/api/accounts", {"user": "x", "currency": "GBP", "floor": 1.5}, 422, "invalid_input"),
        ("/api/accounts", {"user": "x"}, 422, "invalid_input"),
        ("/api/accounts/bulk", {"accounts": []}, 422, "invalid_input"),
        ("/api/books", {"currency": "NOPE"}, 422, "invalid_input"),
        ("/api/books", {}, 422, "invalid_input"),
        ("/api/users", {"id": 1.5}, 422, "invalid_input"),
        ("/api/users", {"id": "a\x00"}, 422, "invalid_input"),
        ("/transactions/topup", {"amount": 5, "accountId": "77777777777"}, 404, "not_found"),
    ],
)
async def test_what_cannot_be_opened_leaves_nothing(
    scene: Scene, path: str, body: Any, status: int, code: str
) -> None:
    before = await scene.written()
    answer = await scene.server.call("POST", path, json=body, headers=bearer())
    assert_problem(answer, status, code)
    assert await scene.written() == before


async def test_a_body_over_the_limit_is_refused_however_it_is_sent(
    scene: Scene, owned: Owned
) -> None:
    before = await scene.written()
    path = f"/api/accounts/{owned.account}/charges"
    large = json.dumps({"amount": 1, "description": "x" * 70_000}).encode()
    declared = await scene.server.call("POST", path, content=large)
    assert_problem(declared, 413, "body_too_large")
    user = await scene.server.call("POST", "/api/users", content=large, headers=bearer())
    assert_problem(user, 413, "body_too_large")

    async def parts() -> Any:
        for _ in range(100):
            yield b" " * 1000

    chunked = await scene.server.client.post(
        path, content=parts(), headers={**bearer(), **key(), "Content-Type": "application/json"}
    )
    assert_problem(chunked, 413, "body_too_large")
    assert await scene.written() == before


async def test_a_body_that_is_not_declared_as_json_is_refused(scene: Scene, owned: Owned) -> None:
    before = await scene.written()
    path = f"/api/accounts/{owned.account}/charges"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
        headers = {**bearer(), **key(), "Content-Type": kind}
        answer = await scene.server.call("POST", path, content=b'{"amount": 1}', headers=headers)
        assert_problem(answer, 415, "unsupported_media_type")
    headers = {**bearer(), "Content-Type": "text/plain"}
    user = await scene.server.call("POST", "/api/users", content=b'{"id": "x"}', headers=headers)
    assert_problem(user, 415, "unsupported_media_type")
    assert await scene.written() == before


async def test_frames_that_are_no_http_do_not_bring_the_server_down(scene: Scene) -> None:
    for frame in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/accounts/1/charges HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/accounts/1/charges HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: \x01\x02\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", scene.server.port), timeout=5) as connection:
            connection.sendall(frame)
            connection.shutdown(socket.SHUT_WR)
            await asyncio.to_thread(connection.recv, 65536)
    assert (await scene.server.call("GET", "/livez", headers={})).status_code == 200


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "Bearer",
        "Basic YTpi",
        "Bearer x.y.z",
        "Bearer " + "a" * 5000,
        "Bearer sk_nonsense",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJib3NzIiwicm9sZSI6ImFkbWluIn0.",
    ],
)
async def test_an_unknown_caller_moves_and_sees_nothing(
    scene: Scene, owned: Owned, credential: str
) -> None:
    before = await scene.written()
    headers = {"Authorization": credential, **key()}
    for method, path, body in (
        ("POST", f"/api/accounts/{owned.account}/charges", {"amount": 1}),
        ("GET", f"/api/accounts/{owned.account}/balance", None),
        ("POST", "/transactions/topup", {"amount": 1}),
        ("GET", "/api/users", None),
    ):
        answer = await scene.server.call(method, path, json=body, headers=headers)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert await scene.written() == before


async def test_expired_forged_and_foreign_tokens_are_refused(scene: Scene, owned: Owned) -> None:
    path = f"/api/accounts/{owned.account}/balance"
    past = datetime.now(UTC) - timedelta(hours=1)
    for bad in (
        token(now=past),
        token(secret="another secret of thirty-two bytes or more"),
        token(tenant="no-such-tenant"),
        token()[:-2],
    ):
        answer = await scene.server.call("GET", path, headers={"Authorization": f"Bearer {bad}"})
        assert_problem(answer, 401, "unauthenticated")


async def test_no_request_of_these_was_an_internal_error(scene: Scene) -> None:
    figures = (await scene.server.call("GET", "/metrics", headers={})).text
    assert "steelyard_unexpected_errors_total 0.0" in figures
    assert 'status="500"' not in figures


async def test_a_user_names_only_itself_in_a_topup(scene: Scene, owned: Owned) -> None:
    other = await scene.own()
    before = await scene.written()
    body = {"amount": 5, "accountId": other.account}
    answer = await scene.server.call(
        "POST", "/transactions/topup", json=body, headers=owned.as_user
    )
    assert_problem(answer, 404, "not_found")
    nobody = bearer("has-no-account", Role.USER)
    for method, path in (("POST", "/transactions/topup"), ("GET", "/api/balance")):
        sent = {"amount": 5} if method == "POST" else None
        answer = await scene.server.call(method, path, json=sent, headers=nobody)
        assert_problem(answer, 404, "not_found")
    assert await scene.written() == before
