"""The page's own files: nothing of it comes from elsewhere, and nothing in it runs that is not one of them."""

from pathlib import Path
from typing import Final

from steelyard.runtime.health import PUBLIC
from steelyard.runtime.hot_routes import Answer, HotHandler, HotRequest, HotRoute, Operation

_FOLDER = Path(__file__).parent
_PAGE_HEADERS: Final = (
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        ),
    ),
)
# Path, file, media type, what the OpenAPI document says.
_FILES: Final = (
    ("/", "page.html", "text/html", "The live page: balances as they change."),
    ("/live/page.css", "page.css", "text/css", "The live page's style."),
    ("/live/page.js", "page.js", "text/javascript", "The live page's script."),
    ("/live/board.js", "board.js", "text/javascript", "What the live page shows of a card."),
    ("/live/bank.js", "bank.js", "text/javascript", "What the live page shows of a core bank."),
    ("/live/connection.js", "connection.js", "text/javascript", "The live page's connection."),
    ("/live/icon.svg", "icon.svg", "image/svg+xml", "The live page's icon."),
)


def _handler(file: str, media_type: str) -> HotHandler:
    body = (_FOLDER / file).read_bytes()
    answer = Answer(
        200, body, ((b"content-type", f"{media_type}; charset=utf-8".encode()), *_PAGE_HEADERS)
    )

    async def show(_: HotRequest) -> Answer:
        return answer

    show.__name__ = f"show_{file.replace('.', '_')}"
    return show


FILE_ROUTES = tuple(
    HotRoute(
        path,
        _handler(file, media_type),
        method="GET",
        permission=PUBLIC,
        operation=Operation(summary, "live page", {200: str}),
    )
    for path, file, media_type, summary in _FILES
)
