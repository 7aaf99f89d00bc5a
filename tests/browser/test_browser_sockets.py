"""What a page gets without any library: the browser's own `WebSocket` and `EventSource`."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.browser.chromium import Browser, Page
from tests.browser.on_screen import user_token
from tests.e2e.database_proxy import DatabaseProxy
from tests.e2e.scene import Scene

LISTEN = """
globalThis.heard = [];
const take = (event, data) => heard.push({ event, ...JSON.parse(data) });
const url = %s;
if (url.startsWith("ws:")) {
  globalThis.source = new WebSocket(url);
  source.onmessage = ({ data }) => { const { event, ...rest } = JSON.parse(data); heard.push({ event, ...rest }); };
  source.onclose = ({ code, reason }) => { globalThis.ending = { code, reason }; };
} else {
  globalThis.source = new EventSource(url);
  for (const name of ["balance_initial", "balance_updated", "transaction_completed"])
    source.addEventListener(name, ({ data }) => take(name, data));
  source.onerror = () => { globalThis.failed = source.readyState; };
}
"""
Cable = Callable[[str], Awaitable[DatabaseProxy]]
MOVED = ["balance_updated", "transaction_completed"]


@pytest_asyncio.fixture
async def page(browser: Browser, host_app: str, scene: Scene) -> AsyncIterator[Page]:
    """A page of the origin that may connect."""
    opened = await browser.open_page(storage={"token": ""})
    await opened.goto(f"{host_app}/{scene.server.port}/")
    yield opened
    await opened.close()


async def listen(page: Page, url: str) -> None:
    """Open a WebSocket or an EventSource and keep what it tells in `heard`."""
    await page.evaluate(f"(() => {{{LISTEN % json.dumps(url)}}})()")


async def names(page: Page) -> list[str]:
    """Return the names of the events heard, in order."""
    heard: list[str] = await page.evaluate("heard.map((one) => one.event)")
    return heard


def websocket(scene: Scene, query: str) -> str:
    """Return the address of the plain WebSocket."""
    return f"ws://localhost:{scene.server.port}/balance?{query}"


async def test_a_plain_websocket_tells_every_change_in_order(scene: Scene, page: Page) -> None:
    owned = await scene.own(10_000)
    await listen(page, websocket(scene, f"token={user_token(owned)}"))
    await page.wait_until("heard.length === 1")
    for seq in (2, 3):
        await scene.post(owned, "charges", {"amount": 100})
        await page.wait_until(f"heard.at(-1).seq === {seq} && heard.length === {2 * seq - 1}")
    assert await names(page) == ["balance_initial", *MOVED, *MOVED]
    assert await page.evaluate("heard.at(-1).newBalance") == 98


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("token=not.a.token", 4401),
        ("", 4401),
        ("token={own}&user=somebody-else", 4403),
        ("token={own}&positions=[]", 4400),
    ],
    ids=["bad token", "no token", "another user's screen", "malformed positions"],
)
async def test_a_page_can_read_why_its_websocket_was_refused(
    scene: Scene, page: Page, query: str, code: int
) -> None:
    owned = await scene.own(100)
    await listen(page, websocket(scene, query.format(own=user_token(owned))))
    await page.wait_until("globalThis.ending")
    closed = await page.evaluate("ending")
    assert closed["code"] == code
    assert closed["reason"]
    assert await page.evaluate("heard") == []


async def test_an_event_source_resumes_by_itself_where_it_stopped(
    scene: Scene, page: Page, cable: Cable
) -> None:
    owned = await scene.own(10_000)
    plug = await cable(scene.server.url)
    await listen(page, f"http://localhost:{plug.port}/balance/stream?token={user_token(owned)}")
    await page.wait_until("heard.length === 1")
    await scene.post(owned, "charges", {"amount": 100})
    await page.wait_until("heard.length === 3")
    plug.go_away()
    await scene.post(owned, "charges", {"amount": 100})
    plug.come_back()
    await page.wait_until("heard.filter((one) => one.event === 'balance_initial').length === 2")
    await scene.post(owned, "charges", {"amount": 100})
    await page.wait_until(
        "heard.at(-1).seq === 4 && heard.at(-1).event === 'transaction_completed'"
    )
    assert await names(page) == ["balance_initial", *MOVED, *MOVED, "balance_initial", *MOVED]
    resumed = await page.evaluate("heard.at(-3)")
    assert (resumed["resumed"], resumed["balance"], resumed["seq"]) == (True, 98, 3)
    assert await page.evaluate("heard[3].replayed")
    await page.evaluate("source.close()")


async def test_an_event_source_with_a_bad_token_fails_for_good(scene: Scene, page: Page) -> None:
    await listen(
        page,
        f"{scene.server.url}/balance/stream?token=not.a.token".replace("127.0.0.1", "localhost"),
    )
    await page.wait_until("globalThis.failed === EventSource.CLOSED")
    assert await page.evaluate("heard") == []
