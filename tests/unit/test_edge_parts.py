"""Parts of the edge on their own: routes, bodies, deadlines, redaction, figures."""

import asyncio
from collections.abc import Awaitable, Callable
from io import StringIO
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from steelyard.core.errors import InvalidInput
from steelyard.runtime.deadlines import Deadlines
from steelyard.runtime.edge import Edge, EdgeLimits
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, HotTable, Operation
from steelyard.runtime.idempotency import check_key
from steelyard.runtime.logs import HIDDEN, AccessLog, hide, hide_in_text
from steelyard.runtime.metrics import Figures, Reading, RequestFigures
from steelyard.runtime.problems import BodyTooLarge, IdempotencyKeyRequired, UnsupportedMediaType
from steelyard.runtime.request_body import ClientGone, receive_body

JSON = {b"content-type": b"application/json"}


async def _nothing(_: HotRequest) -> Answer:
    return Answer(200, b"")


def _route(method: str, path: str) -> HotRoute:
    operation = Operation("Do nothing.", "test", {200: dict})
    return HotRoute(path, _nothing, method=method, permission="public", operation=operation)


def _sender(*parts: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        if not waiting:
            return {"type": "http.disconnect"}
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    return receive


def test_a_hot_route_is_found_by_method_and_shape() -> None:
    charges = _route("POST", "/api/accounts/{account}/charges")
    capture = _route("POST", "/api/accounts/{account}/holds/{hold}/capture")
    cached = _route("GET", "/transactions/balance/cached")
    one = _route("GET", "/transactions/{id}")
    table = HotTable((charges, capture, cached, one))
    assert table.find("POST", "/api/accounts/7/charges") == (charges, {"account": "7"})
    assert table.find("POST", "/api/accounts/7/holds/7-1/capture") == (
        capture,
        {"account": "7", "hold": "7-1"},
    )
    assert table.find("GET", "/transactions/balance/cached") == (cached, {})
    assert table.find("HEAD", "/transactions/x") == (one, {"id": "x"})
    for method, path in (
        ("GET", "/api/accounts/7/charges"),
        ("POST", "/api/accounts//charges"),
        ("POST", "/api/accounts/7/charges/"),
        ("POST", "/api/accounts/7"),
        ("GET", "/transactions/balance"),
        ("GET", "/"),
        ("GET", ""),
    ):
        assert table.find(method, path) is None, path


async def test_a_body_is_read_up_to_its_limit_and_not_beyond() -> None:
    assert await receive_body(_sender(b"12345"), JSON, 5) == b"12345"
    assert await receive_body(_sender(b"12", b"345"), JSON, 5) == b"12345"
    assert await receive_body(_sender(b""), {}, 5) == b""
    for parts in ((b"123456",), (b"123", b"456"), (b"123456", b"7")):
        with pytest.raises(BodyTooLarge):
            await receive_body(_sender(*parts), JSON, 5)


async def test_a_lying_length_helps_nobody() -> None:
    with pytest.raises(BodyTooLarge):
        await receive_body(_sender(b"1"), {**JSON, b"content-length": b"9" * 30}, 5)
    with pytest.raises(BodyTooLarge):
        await receive_body(_sender(b"123456"), {**JSON, b"content-length": b"1"}, 5)


async def test_a_body_that_breaks_off_is_nobodys() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        await receive_body(receive, JSON, 5)


@pytest.mark.parametrize(
    "kind", [b"application/json", b"Application/JSON; charset=utf-8", b"application/x+json"]
)
async def test_json_by_any_of_its_names_is_taken(kind: bytes) -> None:
    assert await receive_body(_sender(b"{}"), {b"content-type": kind}, 5) == b"{}"


@pytest.mark.parametrize("kind", [b"", b"text/json", b"application/xml", b"multipart/form-data"])
async def test_a_body_of_another_kind_is_refused(kind: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        await receive_body(_sender(b"{}"), {b"content-type": kind}, 5)


async def test_who_takes_too_long_is_cancelled_and_can_still_answer() -> None:
    deadlines = Deadlines()

    async def slow() -> str:
        task = deadlines.start(0.01)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            assert deadlines.was_over(task)
            await asyncio.sleep(0)  # the cancellation is over: more can be awaited
            return "told"
        return "in time"

    async def quick() -> str:
        task = deadlines.start(30)
        deadlines.stop(task)
        await asyncio.sleep(0.3)
        return "in time"

    async with asyncio.timeout(5):
        assert (*await asyncio.gather(slow(), quick(), slow()),) == ("told", "in time", "told")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/reconcile/verify", 204),
        ("POST", "/api/reconcile/fix", 204),
        ("GET", "/api/reconcile/discrepancies", 204),
        ("POST", "/api/users", 503),
        ("GET", "/api/reconciled", 503),
    ],
)
async def test_a_proof_may_take_longer_than_other_requests(
    method: str, path: str, status: int
) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.4)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answers: list[Any] = []

    async def note(message: Message) -> None:
        answers.append(message.get("status"))

    limits = EdgeLimits(100, 100, money_s=0.05, request_s=0.05, reconcile_s=30)
    log = AccessLog("json", StringIO(), enabled=False)
    edge = Edge(slow, HotTable(()), None, limits, RequestFigures(), log)
    headers = [(b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": headers,
    }
    async with asyncio.timeout(5):
        await edge(scope, _sender(b"{}"), note)
    assert answers == [status, None]


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    deadlines = Deadlines()
    task = asyncio.create_task(asyncio.sleep(30))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not deadlines.was_over(task)


def test_a_key_is_printable_ascii_and_not_one_of_ours() -> None:
    for good in ("a", "x" * 255, "A-17 / b", "{}"):
        assert check_key(good) == good
    for missing in (None, ""):
        with pytest.raises(IdempotencyKeyRequired):
            check_key(missing)
    for bad in ("x" * 256, "caf\xe9", "a\tb", "a\x7f", "steelyard/topup/1"):
        with pytest.raises(InvalidInput):
            check_key(bad)


def test_secrets_are_hidden_at_any_depth() -> None:
    hidden = hide(
        {
            "Authorization": "Bearer abc.def",
            "deep": [{"api_key": "sk_1", "password": "x", "account": "7"}],
            "url": "/balance?token=abc.def&x=1",
            "note": "sent Bearer abc.def, twice",
        }
    )
    assert hidden == {
        "Authorization": HIDDEN,
        "deep": [{"api_key": HIDDEN, "password": HIDDEN, "account": "7"}],
        "url": f"/balance?token={HIDDEN}&x=1",
        "note": f"sent Bearer {HIDDEN}, twice",
    }
    assert hide_in_text("?token=only") == f"?token={HIDDEN}"


def test_figures_are_what_prometheus_reads() -> None:
    figures = Figures()
    figures.requests.note(("GET", "/x", 200), 0.004)
    figures.requests.note(("GET", "/x", 200), 0.3)
    figures.add([Reading("steelyard_things", "Things.", lambda: 7.0)])
    text, media_type = figures.render()
    told = text.decode()
    assert media_type.startswith("text/plain")
    for line in (
        'steelyard_http_requests_total{method="GET",route="/x",status="200"} 2.0',
        'steelyard_http_request_duration_seconds_bucket{le="0.005",method="GET",route="/x",status="200"} 1.0',
        'steelyard_http_request_duration_seconds_bucket{le="+Inf",method="GET",route="/x",status="200"} 2.0',
        "steelyard_things 7.0",
    ):
        assert line in told, told
    assert figures.requests.count(route="/x") == 2
    assert figures.requests.count(status=500) == 0
