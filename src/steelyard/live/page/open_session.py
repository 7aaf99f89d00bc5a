"""The exchange that opens the live page: a one-time code for two short-lived tokens."""

from typing import Annotated, Protocol

from msgspec import Meta, Struct

from steelyard.access.page_sessions import PageSessions
from steelyard.core.clock import format_utc
from steelyard.core.errors import SteelyardError
from steelyard.runtime.health import PUBLIC
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json
from steelyard.runtime.strict_json import read_body


class PageServices(Protocol):
    """What this route needs of the process."""

    @property
    def page_sessions(self) -> PageSessions | None: ...


class NoPageSessions(SteelyardError):
    """This process exchanges no codes: `serve`, or tokens are signed by another issuer."""

    code = "not_found"

    def __init__(self) -> None:
        super().__init__("this server opens no page by a one-time address; paste a token instead")


class CodeBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """The code from the address that was printed."""

    code: Annotated[str, Meta(min_length=1, max_length=128)]


class SessionAnswer(Struct):
    """Tokens for one page. The service asks for top-ups and charges; the admin looks and decides."""

    service_token: str
    admin_token: str
    expires_at: str


async def open_page_session(request: HotRequest) -> Answer:
    """Exchange a one-time code, once."""
    services: PageServices = request.services
    body = read_body(request.body, CodeBody)
    if services.page_sessions is None:
        raise NoPageSessions
    tokens = services.page_sessions.open(body.code)
    answer = SessionAnswer(tokens.service, tokens.admin, format_utc(tokens.expires_at))
    return Answer(201, encode_json(answer))


SESSION_ROUTES = (
    HotRoute(
        "/api/live/page-sessions",
        open_page_session,
        method="POST",
        permission=PUBLIC,
        operation=Operation(
            "Exchange the one-time code of the live page's address for tokens; only with `up`.",
            "live page",
            {201: SessionAnswer},
            ("unauthenticated", "not_found", "rate_limited"),
            body=CodeBody,
        ),
    ),
)
