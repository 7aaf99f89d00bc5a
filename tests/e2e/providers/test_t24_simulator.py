"""The simulated bank keeps its own truth, its limits and its seed, and is steered over HTTP too."""

import asyncio
from datetime import UTC, datetime, time, timedelta
from random import Random
from typing import Any

import httpx2
import pytest

from steelyard.core.errors import InvalidInput
from steelyard.providers.contract import BalanceKind, Target, TargetAccount
from steelyard.providers.errors import ProviderRateLimited, ProviderTransient
from steelyard.providers.t24.simulator.bank import AskedRequest, BankOptions, SimulatedBank
from steelyard.providers.t24.simulator.books import Books
from steelyard.providers.t24.simulator.faults import LATENCIES, Fault, PlannedFault
from steelyard.runtime.clock import SystemClock
from steelyard.testing.clock import FrozenClock
from steelyard.testing.provider_contract import fetch_all
from tests.e2e.providers.bank_kit import GBP, KEY, OVERDRAWN, YEN, opened, target_of


def ask(bank: SimulatedBank, number: str) -> Any:
    """The bank's answer to one request of the bearer dialect."""
    headers = {"authorization": f"Bearer {bank.options.key}"}
    with bank.answering(AskedRequest("POST", f"/account/{number}/balance", headers)) as reply:
        return reply


def test_the_same_seed_is_the_same_bank() -> None:
    def history(seed: int) -> list[Any]:
        bank = SimulatedBank.seeded(
            seed,
            clock=FrozenClock(),
            customers=20,
            currency=GBP,
            options=BankOptions(latency=LATENCIES["busy"]),
        )
        bank.faults.add(PlannedFault(Fault.STATUS_500, share=0.3))
        numbers = sorted(bank.books.accounts)
        told = []
        for index in range(200):
            bank.move_one()
            told.append(ask(bank, numbers[index % len(numbers)]))
        return told

    first = history(3)
    assert history(3) == first
    assert history(4) != first
    assert {reply.status for reply in first} == {200, 500}
    assert max(reply.delay_s for reply in first) <= LATENCIES["busy"].longest_s


def test_the_kinds_of_balance_agree_with_each_other() -> None:
    books = Books.seeded(Random(1), customers=50, currency=GBP)
    for account in books.accounts.values():
        account.authorised, account.locked = 30, 7
        truth = account.truth()
        assert truth[BalanceKind.WORKING] == truth[BalanceKind.LEDGER] - 30
        assert truth[BalanceKind.AVAILABLE] == truth[BalanceKind.WORKING] - 7
    assert len({one.customer for one in books.accounts.values()}) == 50


def test_no_second_takes_more_than_the_limit() -> None:
    clock = FrozenClock()
    bank = SimulatedBank.seeded(
        1, clock=clock, currency=GBP, options=BankOptions(requests_per_s=10)
    )
    number = next(iter(bank.books.accounts))
    statuses = []
    for _ in range(40):
        statuses.append(ask(bank, number).status)
        clock.move(timedelta(seconds=0.05))
    assert statuses.count(429) > 0
    assert bank.counts.refused_as_too_many == statuses.count(429)
    assert bank.counts.busiest(1.0) == 20
    assert ask(bank, number).status == 429
    clock.move(timedelta(seconds=1.1))
    assert ask(bank, number).status == 200


def test_it_is_closed_for_maintenance_also_over_midnight() -> None:
    clock = FrozenClock(datetime(2026, 11, 21, 22, 59, tzinfo=UTC))
    window = (time(23, 0), time(1, 0))
    bank = SimulatedBank.seeded(
        1, clock=clock, currency=GBP, options=BankOptions(maintenance=window)
    )
    number = next(iter(bank.books.accounts))
    seen = []
    for _ in range(4):
        seen.append(ask(bank, number).status)
        clock.move(timedelta(hours=1))
    assert seen == [200, 503, 503, 200]


def test_an_outage_ends_when_its_time_is_over() -> None:
    clock = FrozenClock()
    bank = SimulatedBank.seeded(1, clock=clock, currency=GBP)
    number = next(iter(bank.books.accounts))
    bank.faults.add(PlannedFault(Fault.STATUS_503, for_s=30))
    seen = []
    for _ in range(4):
        seen.append((ask(bank, number).status, len(bank.faults.list_current())))
        clock.move(timedelta(seconds=15))
    assert seen == [(503, 1), (503, 1), (200, 0), (200, 0)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 1.1},
        {"wait_s": -1},
        {"wait_s": float("nan")},
        {"times": -1},
        {"for_s": 0},
        {"for_s": float("inf")},
    ],
)
def test_a_fault_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        PlannedFault(Fault.HANG, **wrong)


async def test_it_counts_who_is_in_flight_and_notices_who_leaves() -> None:
    async with opened(t24_in_flight=50) as scene:
        scene.fail(Fault.HANG)
        calls = [
            scene.client.fetch_balances(target_of(one), deadline_s=1)
            for one in (OVERDRAWN, OVERDRAWN, OVERDRAWN, YEN)
        ]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, ProviderTransient) for one in ended)
        assert scene.bank.counts.in_flight_max == 4
        assert scene.bank.counts.in_flight_max_of == {"700001": 4}
        assert scene.bank.counts.asked == {OVERDRAWN.number: 3, YEN.number: 1}
        async with asyncio.timeout(5):
            while scene.bank.counts.in_flight:  # noqa: ASYNC110 - it hears of it by its socket
                await asyncio.sleep(0.005)


async def test_more_at_once_than_it_bears_are_refused() -> None:
    options = BankOptions(key=KEY, in_flight=2)
    async with opened(options=options, t24_in_flight=5) as scene:
        scene.fail(Fault.HANG)
        calls = [scene.client.fetch_balances(target_of(YEN), deadline_s=1) for _ in range(5)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        limited = [one for one in ended if isinstance(one, ProviderRateLimited)]
        assert [one.retry_after_s for one in limited] == [1, 1, 1]


async def test_a_slow_answer_is_still_the_true_one_and_the_connection_goes_on() -> None:
    options = BankOptions(key=KEY, latency=LATENCIES["quick"])
    async with opened(options=options, t24_in_flight=1) as scene:
        for _ in range(5):
            (reading,) = (await fetch_all(scene.client, target_of(YEN))).readings
            assert reading.balances[0].money.minor == YEN.truth()[BalanceKind.AVAILABLE]


async def test_it_is_steered_over_http() -> None:
    async with opened() as scene:
        assert scene.server is not None
        async with httpx2.AsyncClient(base_url=f"{scene.server.url}/_control") as control:
            order = {"customer": "700009", "currency": "GBP", "booked": 1_000, "locked": 1}
            put = await control.put("/accounts/4000000001", json=order)
            assert put.json()["available"] == 999
            target = Target((TargetAccount("4000000001", GBP),))
            (reading,) = (await fetch_all(scene.client, target)).readings
            assert reading.balances[0].money.minor == 999

            fault = {"fault": "status_500", "accounts": ["4000000001"], "times": 1}
            assert (await control.post("/faults", json=fault)).status_code == 200
            assert (await control.get("")).json()["planned"] == ["status_500"]
            assert (await fetch_all(scene.client, target_of(YEN))).problems == ()
            with pytest.raises(ProviderTransient):
                await fetch_all(scene.client, target)
            await fetch_all(scene.client, target)  # only once

            told = (await control.get("")).json()
            assert told["requests"] == 4
            assert told["asked"] == {"4000000001": 3, YEN.number: 1}
            assert told["faults"] == {"status_500": 1}
            assert (await control.get("/accounts")).json() == scene.truth()
            await control.delete("/faults")
            await control.delete("/counts")
            told = (await control.get("")).json()
            assert (told["requests"], told["planned"]) == (0, [])


async def test_an_entry_moves_the_true_balance_by_exactly_its_amount() -> None:
    async with opened() as scene:
        assert scene.server is not None
        before = scene.truth()
        async with httpx2.AsyncClient(base_url=f"{scene.server.url}/_control") as control:
            posted = await control.post(f"/accounts/{YEN.number}/entries", json={"amount": -250})
            back = await control.post(f"/accounts/{YEN.number}/entries", json={"amount": 250})
        assert posted.json()["ledger"] == before[YEN.number][BalanceKind.LEDGER] - 250
        assert back.json() == before[YEN.number]
        assert scene.truth() == before


async def test_latency_limits_and_window_are_changed_while_it_runs() -> None:
    async with opened() as scene:
        assert scene.server is not None
        async with httpx2.AsyncClient(base_url=f"{scene.server.url}/_control") as control:
            order = {"latency": "busy", "requests_per_s": 3, "maintenance": "00:00-12:00"}
            assert (await control.patch("/options", json=order)).status_code == 200
            options = scene.bank.options
            assert (options.latency, options.requests_per_s) == (LATENCIES["busy"], 3)
            assert options.maintenance == (time(0), time(12))
            assert (options.key, options.in_flight) == (KEY, None)
            order = {"requests_per_s": None, "maintenance": None}
            assert (await control.patch("/options", json=order)).status_code == 200
        assert scene.bank.options == BankOptions(key=KEY, latency=LATENCIES["busy"])


async def test_a_web_page_steers_no_bank() -> None:
    async with opened() as scene:
        assert scene.server is not None
        async with httpx2.AsyncClient(base_url=f"{scene.server.url}/_control") as control:
            headers = {"Origin": "https://example.com"}
            answer = await control.post("/faults", json={"fault": "hang"}, headers=headers)
            assert answer.status_code == 403
        assert scene.bank.faults.planned == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/faults", "{}", 422),
        ("POST", "/faults", '{"fault":"none"}', 422),
        ("POST", "/faults", '{"fault":"hang","share":7}', 422),
        ("PUT", "/accounts/1", '{"customer":"1","currency":"GBP","digits":9}', 422),
        ("PUT", "/accounts/1", '{"customer":"1","currency":"GBP","booked":1.5}', 422),
        ("POST", "/accounts/2000000002/entries", '{"amount":1.5}', 422),
        ("POST", "/accounts/2000000002/entries", '{"amount":10000000000000000}', 422),
        ("POST", "/accounts/1/entries", '{"amount":1}', 404),
        ("POST", "/faults", '{"fault":"hang","for_s":0}', 422),
        ("PATCH", "/options", '{"latency":"asleep"}', 422),
        ("PATCH", "/options", '{"latency":null}', 422),
        ("PATCH", "/options", '{"in_flight":0}', 422),
        ("PATCH", "/options", '{"maintenance":"noon"}', 422),
        ("PATCH", "/options", '{"maintenance":"12:00-12:00"}', 422),
        ("GET", "/nothing", "", 404),
    ],
)
async def test_an_order_that_cannot_be_read_changes_nothing(
    method: str, path: str, body: str, status: int
) -> None:
    async with opened() as scene:
        assert scene.server is not None
        before = scene.truth()
        async with httpx2.AsyncClient(base_url=f"{scene.server.url}/_control") as control:
            assert (await control.request(method, path, content=body)).status_code == status
        assert scene.truth() == before
        assert scene.bank.faults.planned == []
        assert scene.bank.options == BankOptions(key=KEY)


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"a" * 40_000,
        b"",
    ],
)
async def test_bytes_that_are_no_request_end_the_connection_and_nothing_else(sent: bytes) -> None:
    async with opened() as scene:
        assert scene.server is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.server.port)
        writer.write(sent)
        if not sent:
            writer.write_eof()
        try:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        except ConnectionError:
            pass
        finally:
            writer.close()
        assert (await fetch_all(scene.client, target_of(YEN))).problems == ()


async def test_ours_is_theirs_after_a_day_of_faults() -> None:
    bank_faults = [
        PlannedFault(Fault.RESET, share=0.05),
        PlannedFault(Fault.STATUS_503, share=0.1),
        PlannedFault(Fault.NOT_A_NUMBER, share=0.05),
        PlannedFault(Fault.TRUNCATE, share=0.05),
    ]
    async with opened("iris") as scene:
        bank = scene.bank
        for index in range(40):
            bank.books.add(
                type(YEN)(str(5_000_000_000 + index), str(600_000 + index // 4), GBP, booked=index)
            )
        bank.faults.planned += bank_faults
        ours: dict[str, int] = {}
        waiting = [target_of(one) for one in bank.books.accounts.values() if one.currency == GBP]
        tries = 0
        while waiting:
            target, tries = waiting.pop(0), tries + 1
            assert tries < 1_000
            try:
                told = await scene.client.fetch_balances(target, deadline_s=2)
            except ProviderTransient:
                waiting.append(target)
                continue
            waiting += [Target((one.account,), target.customer) for one in told.problems]
            for reading in told.readings:
                useable = reading.find(BalanceKind.USEABLE)
                assert useable is not None
                ours[reading.account.number] = useable.money.minor
        assert sum(bank.counts.faults.values()) > 0
        theirs = scene.truth()
        assert ours == {number: theirs[number][BalanceKind.USEABLE] for number in ours}
        assert len(ours) == 41


def test_a_clock_is_all_it_needs() -> None:
    assert SimulatedBank.seeded(1, clock=SystemClock(), currency=GBP).books.accounts
