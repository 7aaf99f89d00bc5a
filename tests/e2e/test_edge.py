"""What holds for every request: ids, headers, unknown paths, health, figures, logs, documentation."""

import json
import secrets
from pathlib import Path

import pytest

from steelyard.app import openapi_document
from tests.e2e.scene import Scene, assert_problem
from tests.e2e.server_kit import Server, bearer, key, token

CHECKED_IN = Path(__file__).parents[2] / "docs" / "openapi.json"


async def test_a_request_id_that_is_given_comes_back(server: Server) -> None:
    given = f"trace-{secrets.token_hex(8)}"
    for path in ("/livez", "/api/tenant", "/nowhere"):
        answer = await server.call("GET", path, headers={**bearer(), "X-Request-Id": given})
        assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "caf\xe9", '"\t"'])
async def test_a_request_id_that_is_none_is_replaced(server: Server, given: str) -> None:
    answers = [
        await server.client.get("/livez", headers={b"X-Request-Id": given.encode("latin-1")})
        for _ in range(2)
    ]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert given not in ids


async def test_unknown_paths_and_methods_are_problems(server: Server) -> None:
    assert_problem(await server.call("GET", "/nowhere"), 404, "not_found")
    assert_problem(await server.call("GET", "/api/transactions/balance"), 404, "not_found")
    assert_problem(await server.call("GET", "/api/accounts//balance"), 404, "not_found")
    for method, path in (
        ("PUT", "/api/accounts/1"),
        ("GET", "/api/accounts/1/charges"),
        ("DELETE", "/livez"),
        ("PUT", "/api/users"),
    ):
        answer = await server.call(method, path)
        assert_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"]


async def test_every_answer_forbids_guessing_and_keeping(server: Server) -> None:
    for path in ("/livez", "/api/tenant", "/api/accounts", "/nowhere"):
        answer = await server.call("GET", path, headers=bearer())
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


async def test_head_answers_as_get_without_a_body(server: Server) -> None:
    answer = await server.call("HEAD", "/livez", headers={})
    assert (answer.status_code, answer.content) == (200, b"")


async def test_health_tells_alive_and_ready(server: Server) -> None:
    alive = await server.call("GET", "/livez", headers={})
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    ready = await server.call("GET", "/readyz", headers={})
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")


async def test_figures_count_requests_by_route_and_never_by_path(scene: Scene) -> None:
    owned = await scene.own(100)
    await scene.post(owned, "charges", {"amount": 1})
    await scene.server.call("GET", f"/secret-path-{owned.account}")
    answer = await scene.server.call("GET", "/metrics", headers={})
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    assert (
        'steelyard_http_requests_total{method="POST",route="/api/accounts/{account}/charges",status="201"}'
        in text
    )
    assert 'route="/api/users",status="201"' in text
    assert 'route="(none)",status="404"' in text
    assert "secret-path" not in text
    for name in ("ledger_batches_total", "ledger_queue", "http_in_flight", "ledger_posted_total"):
        assert f"steelyard_{name}" in text


async def test_a_request_is_one_line_in_the_log_without_query_or_secrets(scene: Scene) -> None:
    mark, secret = secrets.token_hex(8), token()
    headers = {"Authorization": f"Bearer {secret}", "X-Request-Id": mark, **key("private-" + mark)}
    await scene.server.call("GET", f"/api/accounts?user={mark}x&token={secret}", headers=headers)
    await scene.server.call("GET", "/metrics", headers={})
    lines: list[str] = []
    for _ in range(100):
        lines = [line for line in scene.server.log_lines() if f'"request_id":"{mark}"' in line]
        if lines:
            break
        await scene.server.call("GET", "/livez", headers={})
    [line] = lines
    told = json.loads(line)
    assert (told["event"], told["route"], told["path"]) == (
        "http.request",
        "/api/accounts",
        "/api/accounts",
    )
    assert (told["status"], told["tenant"], told["subject"]) == (422, "default", "boss")
    assert told["code"] == "invalid_input"
    assert told["timestamp"].endswith("Z")
    whole = "\n".join(scene.server.log_lines())
    assert secret not in whole
    assert f"{mark}x" not in whole
    assert f"private-{mark}" not in whole


async def test_the_documentation_needs_nothing_from_elsewhere(server: Server) -> None:
    page = await server.call("GET", "/docs", headers={})
    script = await server.call("GET", "/docs.js", headers={})
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for text in (page.text, script.text):
        assert "http://" not in text
        assert "https://" not in text


async def test_the_document_that_is_served_is_the_one_checked_in(server: Server) -> None:
    served = (await server.call("GET", "/openapi.json", headers={})).json()
    assert served == openapi_document()
    assert CHECKED_IN.exists(), "run: steelyard openapi > docs/openapi.json"
    assert json.loads(CHECKED_IN.read_text()) == served, (
        "run: steelyard openapi > docs/openapi.json"
    )


def test_every_operation_tells_its_refusals_and_its_permission() -> None:
    document = openapi_document()
    assert document["openapi"].startswith("3.1")
    names = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            names.append(operation["operationId"])
            assert operation["x-permission"], (method, path)
            if operation["x-permission"] == "public":
                continue
            assert {"401", "403", "422", "503"} <= set(operation["responses"]), (method, path)
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"]
    assert len(names) == len(set(names))
