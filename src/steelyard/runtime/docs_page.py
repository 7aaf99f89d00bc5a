"""The API's documentation for the eye, from this process alone: no script or style from elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from steelyard.runtime.health import PUBLIC
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json

_FOLDER = Path(__file__).parent
_PAGE = (_FOLDER / "docs_page.html").read_bytes()
_SCRIPT = (_FOLDER / "docs_page.js").read_bytes()
_PAGE_HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
            b"form-action 'none'; frame-ancestors 'none'"
        ),
    ),
)


class DocumentServices(Protocol):
    """What these routes need of the process."""

    @property
    def document(self) -> Callable[[], dict[str, Any]]: ...


async def show_docs(_: HotRequest) -> Answer:
    """Show the operations on a page."""
    return Answer(200, _PAGE, ((b"content-type", b"text/html; charset=utf-8"), *_PAGE_HEADERS))


async def show_docs_script(_: HotRequest) -> Answer:
    """Answer the page's script."""
    return Answer(200, _SCRIPT, ((b"content-type", b"text/javascript; charset=utf-8"),))


async def show_document(request: HotRequest) -> Answer:
    """Answer the OpenAPI document."""
    services: DocumentServices = request.services
    return Answer(200, encode_json(services.document()))


DOCS_ROUTES = tuple(
    HotRoute(
        path,
        handler,
        method="GET",
        permission=PUBLIC,
        operation=Operation(summary, "operation", {200: shape}),
    )
    for path, handler, summary, shape in (
        ("/docs", show_docs, "This documentation as a page.", str),
        ("/docs.js", show_docs_script, "The page's script.", str),
        ("/openapi.json", show_document, "The OpenAPI 3.1 document.", dict),
    )
)
