"""Routes too hot for a framework's machinery: found by one walk over the path, read and answered as bytes.

A `HotRoute` is a Starlette route like any other (it is listed, and answers 405 for other methods); the edge
finds it first and calls its handler directly.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Send

JSON: Final = b"application/json"
encode_json: Final = msgspec.json.Encoder().encode


@dataclass(slots=True)
class HotRequest:
    """One request of a hot route: what its handler may need, already read."""

    services: Any
    """`app.state.steelyard`; a slice's handlers see it through a protocol of their own."""
    params: Mapping[str, str]
    body: bytes
    query: bytes
    authorization: str | None
    idempotency_key: str | None
    request_id: str
    permission: str
    """What the route says is needed; `access.admit_request` asks for it."""
    principal: Any = None
    """Who asks, once the handler has asked that; the log names it."""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a hot handler answers."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that goes on: `run` sends it, status and headers included, until it ends. No deadline holds for it.

    `run` is given the headers every answer has, to send beside its own. It is always called, so that what the handler
    has taken can be given back there.
    """

    status: int
    run: Callable[[Receive, Send, Headers], Awaitable[None]]


HotHandler = Callable[[HotRequest], Awaitable[Answer]]
StreamHandler = Callable[[HotRequest], Awaitable[Answer | Stream]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What the OpenAPI document says of a hot route. `body` and the values of `answers` are msgspec types."""

    summary: str
    tag: str
    answers: Mapping[int, type]
    problems: Sequence[str] = ()
    """Codes it can answer beside those every route can."""
    body: type | None = None
    needs_key: bool = False
    query: type | None = None
    """A msgspec type whose fields are the query parameters."""
    body_is_optional: bool = False
    media_type: str = "text/plain"
    """Of an answer that is text."""


class HotRoute(Route):
    """A route whose handler is called past the framework; `permission` says who may."""

    def __init__(
        self,
        path: str,
        handler: HotHandler | StreamHandler,
        *,
        method: str,
        permission: str,
        operation: Operation,
        takes_bulk: bool = False,
    ) -> None:
        super().__init__(path, _refuse, methods=[method], name=handler.__name__)
        self.handler, self.method, self.permission = handler, method, permission
        self.operation, self.takes_bulk = operation, takes_bulk


async def _refuse(_: Request) -> NoReturn:
    # The edge calls hot handlers itself; what comes here is a path that only looks like one of theirs.
    raise HTTPException(404)


class HotTable:
    """Finds the hot route of a method and path, in time that does not grow with the number of routes."""

    def __init__(self, routes: Iterable[HotRoute]) -> None:
        self._root: dict[str, Any] = {}
        self._plain: dict[tuple[str, str], tuple[HotRoute, dict[str, str]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._plain.update(
                    ((method, route.path), (route, {})) for method in route.methods or ()
                )
            node = self._root
            for segment in route.path.split("/")[1:]:
                node = node.setdefault("{}" if segment.startswith("{") else segment, {})
            names = tuple(s[1:-1] for s in route.path.split("/")[1:] if s.startswith("{"))
            for method in route.methods or ():
                node[f"\n{method}"] = (route, names)

    def find(self, method: str, path: str) -> tuple[HotRoute, dict[str, str]] | None:
        """Return the route and its parameters, or None where another kind of route may be meant."""
        plain = self._plain.get((method, path))
        if plain is not None:
            return plain
        node = self._root
        values: list[str] = []
        for segment in path.split("/")[1:]:
            below = node.get(segment)
            if below is None:
                below = node.get("{}")
                if below is None or not segment:
                    return None
                values.append(segment)
            node = below
        found = node.get(f"\n{method}")
        if found is None:
            return None
        route, names = found
        return route, dict(zip(names, values, strict=True))
