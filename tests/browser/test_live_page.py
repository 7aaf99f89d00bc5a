"""The live page in a real browser: what a person sees of the money of a running `up`, and does with it."""

import asyncio
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from steelyard.cli.replay_month import Month
from tests.browser.chromium import Browser, Page
from tests.e2e.cli_kit import Up, command

DEADLINE_S = 10.0
MINUS = "\N{MINUS SIGN}"
PUBLISHED = re.compile(r"http://127\.0\.0\.1:\d+/#(\S+)")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` on a fresh folder, with the demo data and its replay."""
    started = Up.start(tmp_path_factory.mktemp("up") / "data")
    started.wait_ready()
    started.wait_log("Ctrl-C stops")
    yield started
    assert started.end() == 0, started.log.read_text()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the page are kept, for people to look at."""
    return tmp_path_factory.mktemp("pictures")


class Backend:
    """The application beside the page: makes users with accounts and moves their money over HTTP."""

    def __init__(self, up: Up) -> None:
        made = command("token", "--role", "admin", "--data-dir", up.folder)
        header = {"Authorization": f"Bearer {made.out.strip()}"}
        self.client = httpx2.AsyncClient(base_url=up.url, headers=header, timeout=30)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request that must succeed; return its answer."""
        key = {"Idempotency-Key": secrets.token_hex(8)}
        answer = await self.client.request(method, path, json=body, headers=key)
        assert answer.is_success, answer.text
        return answer.json()

    async def own(self, balance: int = 0, *, name: str | None = None) -> dict[str, Any]:
        """Open an account of a new user, with some money."""
        user = f"person-{secrets.token_hex(5)}"
        await self.ask("POST", "/api/users", {"id": user})
        body = {"user": user, "currency": "GBP", "name": name or f"Purse of {user}"}
        opened: dict[str, Any] = await self.ask("POST", "/api/accounts", body)
        if balance:
            await self.move(opened, "recharges", balance)
        return opened

    async def move(self, account: dict[str, Any], what: str, amount: int, **about: str) -> Any:
        """Charge or recharge."""
        path = f"/api/accounts/{account['account']}/{what}"
        return await self.ask("POST", path, {"amount": amount, **about})

    async def balance(self, account: dict[str, Any]) -> tuple[int, int]:
        """Return what can be spent and the number of the last change."""
        found = await self.ask("GET", f"/api/accounts/{account['account']}/balance")
        return found["available"], found["seq"]


@pytest_asyncio.fixture(scope="module")
async def backend(up: Up) -> AsyncIterator[Backend]:
    """The application of the running `up`."""
    made = Backend(up)
    yield made
    await made.client.aclose()


def new_address(up: Up) -> str:
    """Print an address with the command."""
    made = command("page", "--data-dir", up.folder)
    assert made.code == 0, made.err
    return made.out.strip()


async def until(page: Page, expression: str, *, within_s: float = DEADLINE_S) -> None:
    """Wait until an expression is true in the page, whose policy forbids Playwright's own way to wait."""
    until_s = time.monotonic() + within_s
    while not await page.evaluate(expression):
        assert time.monotonic() < until_s, f"not true in {within_s:.0f} s: {expression}"
        await asyncio.sleep(0.03)


async def until_text(page: Page, name: str, text: str) -> None:
    """Wait until the element of this id shows exactly this text."""
    shown = f"document.getElementById({json.dumps(name)}).textContent"
    try:
        await until(page, f"{shown} === {json.dumps(text)}")
    except AssertionError:
        raise AssertionError(f"{name}: {await page.evaluate(shown)!r} is not {text!r}") from None


async def feed(page: Page) -> list[str]:
    """Return the first line of each row of the feed, newest first: what it was and its sum, or a refusal."""
    rows = "[...document.querySelectorAll('#feed li')]"
    lines: list[str] = await page.evaluate(
        f"{rows}.map(one => one.querySelector('.refusal')?.textContent"
        " ?? `${one.querySelector('.what').textContent} ${one.querySelector('.sum').textContent}`)"
    )
    return lines


async def numbers(page: Page) -> list[int]:
    """Return the number of each change in the feed, newest first."""
    found: list[int] = await page.evaluate(
        "[...document.querySelectorAll('#feed li')].map(one => Number(one.dataset.at))"
    )
    return found


def complaints(page: Page) -> list[str]:
    """Return what the browser complained of, other than the refusals and the restart that a test asks for."""
    asked_for = ("402 (Payment Required)", "ERR_CONNECTION_REFUSED")
    told = page.told("error", "warning", "pageerror", "requestfailed")
    return [one for one in told if not any(words in one for words in asked_for)]


@pytest_asyncio.fixture
async def page(up: Up, browser: Browser) -> AsyncIterator[Page]:
    """The page, opened by an address of its own and connected."""
    opened = await browser.open_page()
    await opened.goto(new_address(up))
    await until_text(opened, "state", "live")
    yield opened
    assert complaints(opened) == []
    await opened.close()


async def pick(page: Page, account: dict[str, Any]) -> None:
    """Find an account by its user and pick it."""
    if not await page.evaluate("document.getElementById('picker').open"):
        await page.click("#picker summary")
    await page.fill("#find", account["user"])
    await page.click("#cards li")
    await until_text(page, "account", account["account"])
    await until_text(page, "state", "live")


async def test_an_address_opens_the_page_once(up: Up, browser: Browser) -> None:
    printed = PUBLISHED.search(up.log.read_text())
    assert printed is not None
    first, second = await browser.open_page(), await browser.open_page()
    await first.goto(printed[0])
    await until_text(first, "state", "live")
    assert await first.evaluate("location.href") == f"{up.url}/"
    await first.run("reload")
    await until_text(first, "state", "live")
    await second.goto(printed[0])
    await until(second, "document.getElementById('gate-why').textContent !== ''")
    assert "opened before" in await second.text("#gate-why")
    assert "steelyard page" in await second.text("#gate")
    assert await second.evaluate("document.getElementById('board').hidden")
    assert await second.evaluate("sessionStorage.length") == 0
    # The same tab takes a new address, which changes the fragment alone.
    await second.evaluate(f"location.href = {json.dumps(new_address(up))}")
    await until_text(second, "state", "live")
    await first.close()
    await second.close()


async def test_a_pasted_token_shows_a_user_its_own_account_alone(
    up: Up, browser: Browser, backend: Backend
) -> None:
    account = await backend.own(1234)
    token = command("token", "--user", account["user"], "--data-dir", up.folder).out.strip()
    page = await browser.open_page()
    await page.goto(up.url)
    await page.fill("#gate-token", token)
    await page.press("Enter")
    await until_text(page, "amount", "£12.34")
    await until_text(page, "state", "live")
    assert await page.evaluate("document.querySelectorAll('#cards li').length") == 1
    await page.click("#charge-form .row button")
    await until(page, "document.getElementById('notice').textContent.includes('role user')")
    assert await backend.balance(account) == (1234, 1)
    await page.close()


async def test_a_charge_of_somebody_else_appears(page: Page, backend: Backend) -> None:
    account = await backend.own(10_000)
    await pick(page, account)
    await until_text(page, "amount", "£100.00")
    await backend.move(account, "charges", 1_250, description="Lunch")
    await until_text(page, "amount", "£87.50")
    await until(page, "document.querySelector('#feed .what').textContent === 'Lunch'")
    assert await feed(page) == [f"Lunch {MINUS}£12.50", "Recharge +£100.00"]
    assert await page.text("#seq") == "2"
    title = await page.evaluate("document.getElementById('chart-title').textContent")
    assert title == "Balance over the last 2 changes, from £100.00 to £87.50"
    await until_text(page, "spoken", "Balance £87.50")


async def test_a_topup_moves_money_when_it_is_approved_and_not_when_it_is_refused(
    page: Page, backend: Backend
) -> None:
    account = await backend.own()
    await pick(page, account)
    for decision, shown, standing in (
        ("Refuse", "£0.00", (0, 0)),
        ("Approve", "£25.50", (2_550, 1)),
    ):
        await page.fill("#topup", "25.5")
        await page.press("Enter")
        button = f"#asked button[aria-label^={decision}]"
        await page.wait_for(button)
        assert await page.text("#amount") == "£0.00"
        await page.click(button)
        await until(page, "document.querySelectorAll('#asked li').length === 0")
        await until_text(page, "amount", shown)
        assert await backend.balance(account) == standing
    await until(page, "document.querySelectorAll('#feed li').length === 2")
    assert await feed(page) == ["Top-up +£25.50", "A top-up was refused."]


async def test_spending_ends_in_a_refusal_that_says_what_is_missing(
    page: Page, backend: Backend
) -> None:
    account = await backend.own(3_001)
    await pick(page, account)
    await until_text(page, "amount", "£30.01")
    await page.click("#drain")
    await until(page, "document.querySelector('#feed .refusal') !== null")
    refusal = "Refused: £5.01 asked for, £4.96 there, £0.05 short."
    assert (await feed(page))[:2] == [refusal, f"Charge from the live page {MINUS}£5.01"]
    assert await page.text("#notice") == refusal
    assert await page.text("#amount") == "£4.96"
    assert await backend.balance(account) == (496, 6)


async def test_after_the_plug_was_pulled_nothing_is_missed(page: Page, backend: Backend) -> None:
    account = await backend.own(10_000)
    await pick(page, account)
    await page.click("#plug")
    await until_text(page, "state", "unplugged")
    for amount in range(1, 8):
        await backend.move(account, "charges", amount * 100, description=f"While away {amount}")
    await page.fill("#charge", "2")
    await page.press("Enter")
    await until(page, "document.getElementById('notice').textContent.includes('plug is out')")
    assert await page.text("#amount") == "£100.00"
    assert await numbers(page) == [1]
    await page.click("#plug")
    await until_text(page, "state", "live")
    told = "Resumed: 8 changes came meanwhile and all were replayed; 0 missed."
    await until_text(page, "notice", told)
    await until_text(page, "amount", "£70.00")
    assert await numbers(page) == list(range(9, 0, -1))
    await until(
        page, "document.querySelectorAll('#feed li')[1].textContent.includes('While away 7')"
    )
    assert await backend.balance(account) == (7_000, 9)


async def test_after_a_long_absence_the_newest_is_shown(page: Page, backend: Backend) -> None:
    account = await backend.own(100_000)
    await pick(page, account)
    await page.click("#plug")
    await until_text(page, "state", "unplugged")
    for _ in range(6):
        await asyncio.gather(*(backend.move(account, "charges", 100) for _ in range(40)))
    await page.click("#plug")
    await until_text(page, "amount", "£760.00")
    told = "240 changes came meanwhile, too many to replay one by one"
    await until(page, f"document.getElementById('notice').textContent.includes('{told}')")
    await until(page, "document.querySelector('#feed li').dataset.at === '241'")
    shown = await numbers(page)
    assert shown == list(range(241, 241 - len(shown), -1))
    await backend.move(account, "charges", 100, description="After it")
    await until_text(page, "amount", "£759.00")
    await until(page, "document.querySelector('#feed .what').textContent === 'After it'")
    assert (await numbers(page))[:2] == [242, 241]


def steer_bank(up: Up, *options: str) -> None:
    """Steer the demo's core bank."""
    done = command("simulate", "t24", *options, "--data-dir", up.folder)
    assert done.code == 0, done.err


def tile(name: str, part: str) -> str:
    """Say in the page's language what a part of a user's tile at the core bank shows."""
    found = f"one => one.querySelector('h3').textContent === {json.dumps(name)}"
    return f"[...document.querySelectorAll('.tile')].find({found})?.querySelector('{part}').textContent"


async def test_a_balance_that_moves_at_the_core_bank_arrives_with_its_difference(
    up: Up, page: Page
) -> None:
    await until(page, "document.querySelectorAll('.tile').length === 8")
    assert await page.text("#bank-state") == "answers, read every 10 s"
    balance = tile("Bwalya Tembo", ".first .minor")
    await until(page, f"{balance} !== '…'")  # read once: what comes now is a change
    steer_bank(up, "--post", "4000000401=100000")
    await page.run("focus", ".tile button")  # the first tile is hers
    await page.press("Enter")
    answer = tile("Bwalya Tembo", ".answer")
    await until(page, f"/^answered in .*: fresh$/.test({answer})")
    # Another entry of hers may be in the same reading.
    step = f"Number({tile('Bwalya Tembo', '.step')}.replace(/[^0-9.]/g, ''))"
    await until(page, f"Math.abs({step} - 100000) < 2000")
    assert await page.evaluate(f"Number({balance}.replace(/[^0-9.]/g, '')) > 100000")
    steer_bank(up, "--post", "4000000401=-100000")


async def test_a_login_at_a_hanging_core_bank_says_that_its_answer_is_the_stored_one(
    up: Up, page: Page
) -> None:
    await until(page, "document.querySelectorAll('.tile').length === 8")
    await until(page, f"{tile('Bwalya Tembo', '.first .minor')} !== '…'")
    steer_bank(up, "--break", "hang", "--for", "60")
    try:
        await page.click(".tile button")
        told = "stored; the sync goes on"
        answer = tile("Bwalya Tembo", ".answer")
        await until(page, f"{answer}.startsWith('answered in 2.')")
        assert told in await page.evaluate(answer)
    finally:
        steer_bank(up, "--repair")


@pytest.mark.slow
async def test_a_core_bank_that_is_away_is_shown_so_and_what_it_told_is_not_called_fresh(
    up: Up, page: Page
) -> None:
    chips = "[...document.querySelectorAll('.tile .chip')].map(one => one.textContent)"
    await until(page, "document.querySelectorAll('.tile').length === 8", within_s=30)
    await until(page, f"{chips}.every(one => one === 'fresh')", within_s=60)
    steer_bank(up, "--break", "status_503")
    try:
        await until(page, f"{chips}.every(one => one.startsWith('stale since '))", within_s=60)
        away = (
            "document.getElementById('bank-state').textContent.startsWith('away, asked again at')"
        )
        await until(page, away, within_s=60)
    finally:
        steer_bank(up, "--repair")
    await until(page, f"{chips}.every(one => one === 'fresh')", within_s=100)
    assert (await page.text("#bank-state")).startswith("answers")


async def test_everything_is_done_by_keyboard(page: Page, backend: Backend) -> None:
    account = await backend.own(2_000)
    await pick(page, account)
    focused = "document.activeElement.id || document.activeElement.textContent.trim()"
    await page.run("focus", "#find")
    await page.press("Control+A")
    await page.run("keyboard.type", account["user"])
    await page.press("ArrowDown")
    assert await page.evaluate(focused) == "cards"
    await page.press("Enter")
    await until_text(page, "state", "live")
    await page.press("Tab")
    assert await page.evaluate(focused) == "charge"
    await page.press("Control+A")
    await page.run("keyboard.type", "5")
    await page.press("Enter")
    await until_text(page, "amount", "£15.00")
    order = []
    for _ in range(8):
        await page.press("Tab")
        order.append(await page.evaluate(focused))
        width = "getComputedStyle(document.activeElement).outlineWidth"
        is_page = await page.evaluate("document.activeElement !== document.body")
        assert not is_page or await page.evaluate(width) != "0px", order
    assert order[:7] == ["Charge", "drain", "topup", "Ask", "plug", "feed", "API"]
    await page.run("focus", "#topup")
    await page.press("Enter")
    await until(page, "document.activeElement.textContent === 'Approve'")
    await page.press("Enter")
    await until_text(page, "amount", "£65.00")
    assert await page.evaluate(focused) == "topup"


async def test_names_and_texts_of_data_never_run(page: Page, backend: Backend) -> None:
    hostile = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>'
    account = await backend.own(1_000, name=hostile)
    await pick(page, account)
    await backend.move(account, "charges", 100, description=f"{hostile}")
    await until(page, "document.querySelectorAll('#feed li').length === 2")
    await until(page, "document.querySelector('#feed .what').textContent.startsWith('<img')")
    assert await page.text("#name") == hostile
    assert hostile in await page.text("#cards")
    assert await page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert await page.evaluate("window.ran") is None


async def test_nothing_is_loaded_from_elsewhere_and_nothing_inline(up: Up, page: Page) -> None:
    loaded = await page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert {one.removeprefix(up.url).split("?")[0] for one in loaded} >= {"/live/page.js"}
    assert all(one.startswith(up.url) for one in loaded)
    inline = "document.querySelectorAll('style, [style], script:not([src])').length"
    assert await page.evaluate(inline) == 0


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_fits_and_can_be_read(
    up: Up, browser: Browser, backend: Backend, pictures: Path, *, width: int, scheme: str
) -> None:
    account = await backend.own(
        12_000, name="A purse with a name that is quite a bit longer than most"
    )
    page = await browser.open_page(width=width, height=740, color_scheme=scheme)
    await page.goto(new_address(up))
    await until_text(page, "state", "live")
    await until(page, "document.querySelectorAll('.tile').length === 8")
    await pick(page, account)
    for amount in (1_999, 350, 4_200):
        await backend.move(account, "charges", amount, description="A shop in a street " * 3)
    await until_text(page, "amount", "£54.51")
    await page.click("#topup-form .row button")
    await page.wait_for("#asked button")
    await until(page, "document.getAnimations().every(one => one.animationName !== 'arrive')")
    assert await page.accessibility_violations() == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.screenshot(pictures / f"page-{width}-{scheme}.png")
    await page.goto(f"{up.url}/?#never-made")
    await until(page, "document.getElementById('gate-why').textContent !== ''")
    assert await page.accessibility_violations() == []
    await page.screenshot(pictures / f"gate-{width}-{scheme}.png")
    await page.close()


async def test_who_wants_less_motion_gets_none(page: Page, backend: Backend) -> None:
    await page.run("emulateMedia", {"reducedMotion": "reduce"})
    account = await backend.own(100)
    await pick(page, account)
    await backend.move(account, "charges", 1)
    await until(page, "document.querySelector('#feed li.new') !== null")
    names = "[...document.querySelectorAll('*')].map(one => getComputedStyle(one).animationName)"
    assert await page.evaluate(f"{names}.every(one => one === 'none')")


def busiest_of_the_coming_days(up: Up) -> list[str]:
    """Return cards by how often they were used on the next days of the replay's calendar."""
    days, note = Month.read().days, up.folder / "replay.json"
    today = json.loads(note.read_text())["day"] if note.exists() else 0
    used: Counter[str] = Counter()
    for day in range(today + 1, today + 3):
        for card, purchases in days[day % len(days)].items():
            used[card] += len(purchases)
    return [card for card, _ in used.most_common()]


async def test_the_month_is_replayed_for_a_card_that_is_watched_and_no_other(
    up: Up, page: Page, backend: Backend
) -> None:
    watched, other = busiest_of_the_coming_days(up)[:2]
    still = (await backend.ask("GET", f"/api/accounts?user={other}"))["data"]
    [card] = (await backend.ask("GET", f"/api/accounts?user={watched}"))["data"]
    await pick(page, card)
    number = card["seq"] + 2
    # Of this card: until it is shown, the number is that of the card picked before.
    await until_text(page, "account", card["account"])
    await until(page, f"Number(document.getElementById('seq').textContent) >= {number}")
    shown = (await backend.ask("GET", f"/api/transactions/{card['account']}-{number}"))["details"]
    assert shown["source"] == "replay"
    what = json.dumps(shown["merchant"])
    row = f"document.querySelector('#feed li[data-at=\"{number}\"] .what')"
    await until(page, f"{row}.textContent === {what}")
    assert (await backend.ask("GET", f"/api/accounts?user={other}"))["data"] == still
    verified = await backend.ask("POST", "/api/reconcile/verify", {})
    assert (verified["clean"], verified["details"]) == (True, [])


async def test_a_page_whose_server_was_restarted_comes_back_by_itself(
    up: Up, page: Page, backend: Backend
) -> None:
    """Last here: every other page is closed by now."""
    account = await backend.own(5_000)
    await pick(page, account)
    await until_text(page, "amount", "£50.00")
    assert up.end() == 0
    refused = command("page", "--data-dir", up.folder)
    assert (refused.code, refused.out) == (1, "")
    assert "no `steelyard up` is running" in refused.err
    up.process = Up.start(up.folder, port=up.port).process
    up.wait_ready()
    await backend.move(account, "charges", 700)
    await until_text(page, "amount", "£43.00")
    await until_text(page, "state", "live")
    assert await numbers(page) == [2, 1]
