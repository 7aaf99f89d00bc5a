"""The edge of the process: every request passes here, and every answer leaves here.

One layer does what a stack of middlewares would: request id, body limit, total deadline, errors as
problem documents, security headers, figures, the access line. Hot routes are answered from here at once;
everything else goes on to the framework.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard.core.errors import DatabaseUnavailable, InvalidInput, NotFound, Retry, SteelyardError
from steelyard.runtime.deadlines import Deadlines
from steelyard.runtime.errors_out import report_error
from steelyard.runtime.hot_routes import JSON, Answer, HotRequest, HotRoute, HotTable, Stream
from steelyard.runtime.logs import REQUEST_ID, AccessLine, AccessLog, hide_in_text
from steelyard.runtime.metrics import UNMATCHED, RequestFigures
from steelyard.runtime.problems import MEDIA_TYPE, problem_of
from steelyard.runtime.request_body import (
    METHODS_WITH_BODY,
    ClientGone,
    receive_body,
    replay,
)
from steelyard.runtime.settings import Settings
from steelyard.runtime.strict_json import parse_json
from steelyard.runtime.whole_answers import EXTENSION, SendWhole

STATUS_CLIENT_GONE = 499
REQUEST_ID_MAX = 128
_REQUEST_ID_LETTERS = frozenset(range(0x21, 0x7F))
_PROOFS = "/api/reconcile/"
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_UNCACHED = (b"cache-control", b"no-store")
_JSON = (b"content-type", JSON)
_PLAIN_HEAD = (
    b"content-length: %d\r\nx-request-id: %b\r\nx-content-type-options: nosniff\r\n"
    b"cache-control: no-store\r\ncontent-type: application/json\r\n"
)
_log = structlog.get_logger()


class ShuttingDown(SteelyardError):
    """The process takes no more requests."""

    code = "overloaded"
    retry = Retry.LATER

    def __init__(self) -> None:
        super().__init__("this process is shutting down; nothing was changed, try again")


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What one request may take."""

    body_bytes: int
    bulk_body_bytes: int
    money_s: float
    """Money and balance routes: the longest until an answer."""
    request_s: float
    """Every other route."""
    reconcile_s: float
    """Routes that prove all of a tenant's balances, once their body is here."""


def edge_limits(settings: Settings) -> EdgeLimits:
    """Return what the settings allow one request."""
    return EdgeLimits(
        settings.body_limit_bytes,
        settings.bulk_body_limit_bytes,
        settings.commit_deadline_ms / 1000,
        settings.request_deadline_ms / 1000,
        settings.reconcile_deadline_ms / 1000,
    )


@dataclass(slots=True)
class _Exchange:
    """What is known of the request at hand, for its answer, the figures and the log."""

    request_id: str
    method: str
    path: str
    started_s: float
    route: str = UNMATCHED
    status: int = 0
    code: str | None = None
    principal: Any = None


@dataclass(slots=True)
class Edge:
    """The outermost application; `services` is what handlers work with, set when the process starts."""

    inner: ASGIApp
    hot: HotTable
    services: Any
    limits: EdgeLimits
    figures: RequestFigures
    access_log: AccessLog
    deadlines: Deadlines = field(default_factory=Deadlines)
    is_closing: bool = False
    _prefix: str = field(default_factory=lambda: secrets.token_hex(6))
    _numbers: Callable[[], int] = field(default_factory=lambda: count(1).__next__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; other kinds of connections pass through."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        exchange = _Exchange(
            self._request_id(headers.get(b"x-request-id")),
            scope["method"],
            scope["path"],
            time.perf_counter(),
        )
        # Taken out, because it holds the request, and the request the scope: such a ring waits for the collector.
        whole: SendWhole | None = scope.get("extensions", {}).pop(EXTENSION, None)
        REQUEST_ID.set(exchange.request_id)
        self.figures.in_flight += 1
        try:
            found = self.hot.find(exchange.method, exchange.path)
            if found is None:
                await self._pass_on(exchange, headers, (scope, receive, send))
            else:
                exchange.route = found[0].path
                request = HotRequest(
                    self.services,
                    found[1],
                    b"",
                    scope["query_string"],
                    _text(headers.get(b"authorization")),
                    _text(headers.get(b"idempotency-key")),
                    exchange.request_id,
                    found[0].permission,
                    headers=headers,
                )
                answer = await self._handle(exchange, found[0], request, (headers, receive))
                exchange.principal = request.principal
                if isinstance(answer, Stream):
                    await self._stream(exchange, answer, receive, send)
                elif whole is None or answer.headers or not _send_whole(exchange, answer, whole):
                    await _send(exchange, answer, send)
        except ClientGone:
            exchange.status = STATUS_CLIENT_GONE
        finally:
            self.figures.in_flight -= 1
            self._note(exchange)

    def _request_id(self, given: bytes | None) -> str:
        if given and len(given) <= REQUEST_ID_MAX and _REQUEST_ID_LETTERS.issuperset(given):
            return given.decode("ascii")
        return f"{self._prefix}-{self._numbers():x}"

    async def _handle(
        self,
        exchange: _Exchange,
        route: HotRoute,
        request: HotRequest,
        source: tuple[dict[bytes, bytes], Receive],
    ) -> Answer | Stream:
        """Run a hot handler within its deadline; whatever it raises becomes a problem document."""
        limits = self.limits
        task = self.deadlines.start(limits.request_s if route.takes_bulk else limits.money_s)
        try:
            if self.is_closing:
                raise ShuttingDown
            if exchange.method in METHODS_WITH_BODY:
                limit = limits.bulk_body_bytes if route.takes_bulk else limits.body_bytes
                request.body = await receive_body(source[1], source[0], limit)
            return await route.handler(request)
        except asyncio.CancelledError:
            if not self.deadlines.was_over(task):
                raise
            return self._tell(exchange, DatabaseUnavailable(doing="answering in time"))
        except ClientGone:
            raise
        # The edge of the process: nobody above could tell the client.
        except Exception as error:
            return self._tell(exchange, error)
        finally:
            self.deadlines.stop(task)

    async def _stream(
        self, exchange: _Exchange, stream: Stream, receive: Receive, send: Send
    ) -> None:
        """Let an answer go on for as long as it likes; its line in the log is written at its end."""
        exchange.status = stream.status
        self.figures.in_flight -= 1
        try:
            await stream.run(receive, send, _completed((), exchange.request_id))
        finally:
            self.figures.in_flight += 1

    async def _pass_on(
        self,
        exchange: _Exchange,
        headers: dict[bytes, bytes],
        connection: tuple[Scope, Receive, Send],
    ) -> None:
        """Hand the request to the framework, with its body read and checked."""
        scope, receive, send = connection
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        is_started = False

        async def send_noted(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                exchange.status = message["status"]
                message["headers"] = _completed(message.get("headers", ()), exchange.request_id)
            await send(message)

        task = self.deadlines.start(self.limits.request_s)
        answer: Answer | None = None
        try:
            if self.is_closing:
                raise ShuttingDown
            _check_target(scope)
            if exchange.method in METHODS_WITH_BODY:
                is_bulk = exchange.path.endswith(("/bulk", "/api/sync/users"))
                limit = self.limits.bulk_body_bytes if is_bulk else self.limits.body_bytes
                body = await receive_body(receive, headers, limit)
                if body:
                    parse_json(body)
                receive = replay(body, receive)
            if exchange.path.startswith(_PROOFS):
                self.deadlines.start(self.limits.reconcile_s)
            await self.inner(scope, receive, send_noted)
        except asyncio.CancelledError:
            if not self.deadlines.was_over(task) or is_started:
                raise
            answer = self._tell(exchange, DatabaseUnavailable(doing="answering in time"))
        except ClientGone:
            raise
        # The edge of the process: nobody above could tell the client.
        except Exception as error:
            answer = self._tell(exchange, error)
            if is_started:
                raise
        finally:
            self.deadlines.stop(task)
            exchange.route = _route_of(scope)
            exchange.principal = scope["state"].get("principal")
        if answer is not None:
            await _send(exchange, answer, send)

    def _tell(self, exchange: _Exchange, error: Exception) -> Answer:
        problem = problem_of(error)
        exchange.code = problem.code
        if problem.code == "internal_error":
            self.figures.unexpected += 1
            _log.error("request.failed", route=exchange.route, exc_info=error)
            report_error(error, request_id=exchange.request_id, route=exchange.route)
        headers = problem.headers
        if problem.status in (408, 413):
            headers = (*headers, (b"connection", b"close"))
        body = problem.encode(exchange.request_id)
        return Answer(problem.status, body, ((b"content-type", MEDIA_TYPE), *headers))

    def _note(self, exchange: _Exchange) -> None:
        duration_s = time.perf_counter() - exchange.started_s
        self.figures.note((exchange.method, exchange.route, exchange.status), duration_s)
        if not self.access_log.enabled:
            return
        principal = exchange.principal
        self.access_log.write(
            AccessLine(
                "http.request",
                "error" if exchange.status >= 500 else "info",
                "",
                exchange.request_id,
                exchange.method,
                # A path that leads nowhere may be a mistyped query with a token in it.
                hide_in_text(exchange.path) if exchange.route == UNMATCHED else exchange.path,
                exchange.route,
                exchange.status,
                round(duration_s * 1000, 3),
                None if principal is None else principal.tenant,
                None if principal is None else principal.subject,
                exchange.code,
            ),
            time.time(),
        )


def _send_whole(exchange: _Exchange, answer: Answer, send: SendWhole) -> bool:
    """Send an answer without headers of its own in one piece; say whether the server took it."""
    exchange.status = answer.status
    body = answer.body
    return send(answer.status, _PLAIN_HEAD % (len(body), exchange.request_id.encode()), body)


async def _send(exchange: _Exchange, answer: Answer, send: Send) -> None:
    exchange.status = answer.status
    headers = [
        (b"content-length", b"%d" % len(answer.body)),
        (b"x-request-id", exchange.request_id.encode()),
        _NOSNIFF,
        _UNCACHED,
    ]
    if not answer.headers:
        headers.append(_JSON)
    else:
        headers += answer.headers
        if answer.headers[0][0] != b"content-type":
            headers.append(_JSON)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _completed(given: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    headers = [*given, (b"x-request-id", request_id.encode()), _NOSNIFF]
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append(_UNCACHED)
    return headers


def _check_target(scope: Scope) -> None:
    if "\x00" in scope["path"]:
        raise NotFound(kind="path", identifier="with NUL")
    if b"%00" in scope["query_string"] or b"\x00" in scope["query_string"]:
        raise InvalidInput(field="query", problem="a parameter holds the character NUL")


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")


def _route_of(scope: Scope) -> str:
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else UNMATCHED
