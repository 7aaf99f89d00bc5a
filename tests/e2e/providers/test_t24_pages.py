"""All accounts of a customer come in pages of 99, whatever the bank tells or does not tell about them."""

import json
from collections.abc import Callable

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.providers.contract import BalanceKind, ProviderContext, Target, TargetAccount
from steelyard.providers.errors import ProviderMalformed, ProviderRefusedRequest
from steelyard.providers.t24.client import PAGES_MAX, open_client
from steelyard.providers.t24.simulator.bank import BankOptions
from steelyard.providers.t24.simulator.books import SimulatedAccount
from steelyard.runtime.clock import SystemClock
from steelyard.testing.provider_contract import WholeReading, fetch_all
from tests.e2e.providers.bank_kit import GBP, KEY, UNKNOWN, opened, settings_of, target_of

Answer = Callable[[int, int], object]
NUMBERS = [str(3_000_000_000 + index) for index in range(1_000)]


def asked(numbers: list[str]) -> Target:
    """A customer's accounts."""
    return Target(tuple(TargetAccount(one, GBP) for one in numbers), customer="1")


def row(number: str) -> dict[str, str]:
    """One row; the balance is the number's end."""
    return {"accountId": number, "currencyId": "GBP", "useableBalance": f"{number[-3:]}.00"}


async def fetch_from(answer: Answer, target: Target) -> WholeReading:
    """Ask a bank whose pages are made by a function of the first row and the size."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        query = request.url.params
        return httpx2.Response(200, json=answer(int(query["page_start"]), int(query["page_size"])))

    context = ProviderContext(settings_of("http://bank.invalid", "iris"), SystemClock())
    async with open_client(context, transport=httpx2.MockTransport(handle)) as client:
        return await fetch_all(client, target)


@pytest.mark.parametrize(("accounts", "calls"), [(2, 1), (98, 1), (99, 1), (100, 2), (250, 3)])
async def test_a_customer_is_read_in_pages_of_99(accounts: int, calls: int) -> None:
    books = [
        SimulatedAccount(number, "700002", GBP, booked=index)
        for index, number in enumerate(NUMBERS[:accounts])
    ]
    async with opened("iris", options=BankOptions(key=KEY)) as scene:
        for one in books:
            scene.bank.books.add(one)
        told = await fetch_all(scene.client, target_of(*books))
        assert told.problems == ()
        assert {one.account.number: one.balances[0].money.minor for one in told.readings} == {
            one.number: one.booked for one in books
        }
        assert told.calls == calls
        assert scene.bank.counts.requests == calls


async def test_an_account_that_is_on_no_page_is_unknown_after_the_last() -> None:
    books = [SimulatedAccount(number, "700002", GBP) for number in NUMBERS[:150]]
    async with opened("iris") as scene:
        for one in books:
            scene.bank.books.add(one)
        target = target_of(*books)
        told = await fetch_all(scene.client, Target((UNKNOWN, *target.accounts), customer="700002"))
        assert [one.account for one in told.problems] == [UNKNOWN]
        assert len(told.readings) == 150


@settings(max_examples=40, deadline=None)
@given(
    there=st.integers(0, 320),
    page_max=st.integers(20, 120),
    has_total=st.booleans(),
    has_size=st.booleans(),
    has_start=st.booleans(),
)
async def test_no_account_is_lost_however_little_the_header_says(
    there: int, page_max: int, has_total: bool, has_size: bool, has_start: bool
) -> None:
    has_size = has_size or (page_max < 99 and not has_total)  # else nothing tells of a next page

    def answer(start: int, size: int) -> object:
        rows = NUMBERS[:there][start - 1 : start - 1 + min(size, page_max)]
        header = {
            **({"total_size": there} if has_total else {}),
            **({"page_size": len(rows)} if has_size else {}),
            **({"page_start": start} if has_start else {}),
        }
        return {"header": header, "body": [row(one) for one in rows]}

    told = await fetch_from(answer, asked([*NUMBERS[: max(there, 2)], "9999999999"]))
    assert [one.account.number for one in told.readings] == NUMBERS[:there]
    assert len(told.problems) == max(there, 2) - there + 1
    for one in told.readings:
        balance = one.find(BalanceKind.USEABLE)
        assert balance is not None
        assert balance.money.minor == int(one.account.number[-3:]) * 100


async def test_a_bank_that_gives_the_same_page_again_is_noticed() -> None:
    def same(start: int, size: int) -> object:
        return {"body": [row(one) for one in NUMBERS[:99]]}

    def first_again(start: int, size: int) -> object:
        return {"header": {"page_start": 1}, "body": [row(one) for one in NUMBERS[:99]]}

    for answer in (same, first_again):
        with pytest.raises(ProviderMalformed, match="wrong_page"):
            await fetch_from(answer, asked(NUMBERS[:150]))


async def test_a_bank_without_a_last_page_is_left() -> None:
    def endless(start: int, size: int) -> object:
        return {"body": [row(str(5_000_000_000 + start + index)) for index in range(99)]}

    with pytest.raises(ProviderMalformed, match="too_many_pages"):
        await fetch_from(endless, asked(["1", *NUMBERS[: 2 * PAGES_MAX]]))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row(NUMBERS[0]), row(NUMBERS[0]), row(NUMBERS[1])], "account_twice"),
        ([{**row(NUMBERS[0]), "currencyId": "USD"}, row(NUMBERS[1])], "currency"),
        ([{**row(NUMBERS[0]), "useableBalance": "1e3"}, row(NUMBERS[1])], "amount_text"),
    ],
)
async def test_a_bad_row_is_one_accounts_problem(rows: list[object], reason: str) -> None:
    told = await fetch_from(lambda start, size: {"body": rows}, asked(NUMBERS[:2]))
    assert [(one.account.number, one.error.reason) for one in told.problems] == [
        (NUMBERS[0], reason)
    ]
    assert [one.account.number for one in told.readings] == [NUMBERS[1]]


async def test_a_row_without_a_number_spoils_the_page() -> None:
    rows = [row(NUMBERS[0]), {"useableBalance": "1.00"}]
    with pytest.raises(ProviderMalformed, match="no_number"):
        await fetch_from(lambda start, size: {"body": rows}, asked(NUMBERS[:2]))


async def test_a_page_token_is_handed_back() -> None:
    seen: list[str | None] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.params.get("page_token"))
        start = int(request.url.params["page_start"])
        body = [row(one) for one in NUMBERS[start - 1 : start + 98]]
        answer = {"header": {"page_token": f"after {start}"}, "body": body}
        return httpx2.Response(
            200, content=json.dumps(answer), headers={"Content-Type": "application/json"}
        )

    context = ProviderContext(settings_of("http://bank.invalid", "iris"), SystemClock())
    async with open_client(context, transport=httpx2.MockTransport(handle)) as client:
        told = await fetch_all(client, asked(NUMBERS[:250]))
    assert len(told.readings) == 250
    assert seen == [None, "after 1", "after 100"]


@pytest.mark.parametrize("position", ["", "x", "{}x", '{"start":"1"}', "[]"])
async def test_a_position_that_is_none_of_ours_is_refused(position: str) -> None:
    target = Target(asked(NUMBERS[:2]).accounts, customer="1", position=position)
    with pytest.raises(ProviderRefusedRequest, match="position"):
        await fetch_from(lambda start, size: {"body": []}, target)
