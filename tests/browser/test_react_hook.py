"""The React hook of the reference, as it stands there, in a real browser."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest_asyncio

from steelyard.access.model import Role
from tests.browser.chromium import Browser, Page
from tests.browser.on_screen import QUIET_S, user_token
from tests.e2e.database_proxy import DatabaseProxy
from tests.e2e.scene import Scene
from tests.e2e.server_kit import token

SHOWN = ".balance-display p"
# The code blocks "React Hook" and "Usage in Component" of the reference, byte for byte.
REFERENCE = {
    "hooks/useBalance.ts": "f07f1cc2f4fdd60922be9361fa8f2d6bcd602c746ec3cfeed1c01f5213826d2f",
    "BalanceDisplay.tsx": "df48815234a1fdc89bdc0ab8f4574c78b3dbaa4e57a2c4572d474645d5bb863c",
}
Show = Callable[..., Awaitable[Page]]
Cable = Callable[[str], Awaitable[DatabaseProxy]]


@pytest_asyncio.fixture
async def show(scene: Scene, browser: Browser, host_app: str) -> AsyncIterator[Show]:
    """Opens the application of the reference with a token in its localStorage."""
    pages: list[Page] = []

    async def run(given: str, *, origin: str = host_app, through: int | None = None) -> Page:
        pages.append(await browser.open_page(storage={"token": given}))
        assert await pages[-1].goto(f"{origin}/{through or scene.server.port}/") == 200
        return pages[-1]

    yield run
    for page in pages:
        assert page.told("pageerror") == []
        await page.close()


async def test_the_component_shows_every_balance_and_says_what_happened(
    scene: Scene, show: Show
) -> None:
    owned = await scene.own(10_000)
    page = await show(user_token(owned))
    await page.wait_for_text(SHOWN, "$100.00")
    await scene.post(owned, "charges", {"amount": 1_050})
    await page.wait_for_text(SHOWN, "$89.50")
    await page.wait_until("said.length === 2")
    await scene.post(owned, "recharges", {"amount": 3_000})
    await page.wait_for_text(SHOWN, "$119.50")
    await page.wait_until("said.length === 4")
    assert await page.evaluate("said") == [
        "Balance updated: $89.5",
        "Transaction completed: $-10.5",
        "Balance updated: $119.5",
        "Transaction completed: $30",
    ]
    assert page.told("error", "warning") == []


async def test_refresh_asks_and_shows_the_answer(scene: Scene, show: Show) -> None:
    owned = await scene.own(4_200)
    page = await show(user_token(owned))
    await page.wait_for_text(SHOWN, "$42.00")
    await page.wait_told("sent", "5")  # the connection is a WebSocket now
    await page.click("text=Refresh")
    await page.wait_told("sent", '"get_current_balance"')
    await page.wait_told("received", '"balance_current"')
    await asyncio.sleep(QUIET_S)
    answers = page.told("received")
    answers = [one.partition("[")[2].partition(",")[0] for one in answers if "balance_" in one]
    assert answers[-2:] == ['"balance_current"', '"balance_initial"']
    assert answers.count('"balance_current"') == 1
    assert await page.text(SHOWN) == "$42.00"


async def test_a_pulled_plug_heals_by_itself_and_shows_the_newest_balance(
    scene: Scene, show: Show, cable: Cable
) -> None:
    owned = await scene.own(4_200)
    plug = await cable(scene.server.url)
    page = await show(user_token(owned), through=plug.port)
    await page.wait_for_text(SHOWN, "$42.00")
    plug.go_away()
    await scene.post(owned, "charges", {"amount": 1_200})
    assert await page.text(SHOWN) == "$42.00"
    plug.come_back()
    await page.wait_for_text(SHOWN, "$30.00")
    await scene.post(owned, "charges", {"amount": 1_000})
    await page.wait_for_text(SHOWN, "$20.00")


async def test_without_a_good_token_no_balance_is_shown(scene: Scene, show: Show) -> None:
    owned = await scene.own(4_200)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for bad in ("not.a.token", token(owned.user, Role.USER, now=yesterday)):
        page = await show(bad)
        await page.wait_for(SHOWN)
        await asyncio.sleep(QUIET_S)
        assert await page.text(SHOWN) == "$---"


async def test_a_page_of_a_foreign_origin_learns_nothing(
    scene: Scene, show: Show, host_app: str
) -> None:
    owned = await scene.own(4_200)
    foreign = host_app.replace("localhost", "elsewhere.test")
    page = await show(user_token(owned), origin=foreign)
    await page.wait_told("error", "elsewhere.test")
    await scene.post(owned, "charges", {"amount": 100})
    await asyncio.sleep(QUIET_S)
    assert await page.text(SHOWN) == "$---"
    assert "balance_initial" not in str(page.told())


async def test_an_unmounted_component_leaves(scene: Scene, show: Show) -> None:
    owned = await scene.own(4_200)
    page = await show(user_token(owned))
    await page.wait_for_text(SHOWN, "$42.00")
    await page.wait_told("sent", "5")
    await page.evaluate("unmount()")
    await page.wait_told("closed")
    await scene.post(owned, "charges", {"amount": 100})
    await asyncio.sleep(QUIET_S)
    assert "balance_updated" not in str(page.told("received"))


def test_hook_and_component_are_the_text_of_the_reference() -> None:
    folder = Path(__file__).parent / "host_app"
    for name, digest in REFERENCE.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
