"""T24's answers are read whole or refused, in the forms that banks send."""

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.money import Currency
from steelyard.providers.contract import BalanceKind, TargetAccount
from steelyard.providers.t24.decode import (
    Row,
    Rows,
    UnreadableAnswer,
    read_account,
    read_bearer,
    read_holdings,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ACCOUNT = TargetAccount("1000000001", Currency("GBP", 2))


def told(rows: Rows) -> dict[BalanceKind, int]:
    """The balances of the only row, in minor units."""
    (row,) = rows.rows
    reading = read_account(row, ACCOUNT, as_of=NOW)
    assert {one.as_of for one in reading.balances} == {NOW}
    return {one.kind: one.money.minor for one in reading.balances}


def refused(body: str, read: Any = read_bearer) -> str:
    """Why a body is refused."""
    with pytest.raises(UnreadableAnswer) as caught:
        told(read(body.encode()))
    return str(caught.value)


def test_the_reference_forms_of_a_balance() -> None:
    available, ledger = BalanceKind.AVAILABLE, BalanceKind.LEDGER
    assert told(read_bearer(b'{"balance":"150000.00"}')) == {available: 15_000_000}
    assert told(read_bearer(b'{"balance":150000.5}')) == {available: 15_000_050}
    assert told(read_bearer(b'{"available_balance":"-1.00"}')) == {available: -100}
    assert told(read_bearer(b'{"balance":"9","available_balance":7}')) == {
        available: 700,
        ledger: 900,
    }
    assert told(read_bearer(b'{"balance":"9","available_balance":null}')) == {available: 900}
    assert told(read_bearer(b'{"balance":"9","currency":"GBP","more":[1]}')) == {available: 900}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("{}", "no_balance"),
        ('{"balance":null}', "no_balance"),
        ('{"balance":""}', "no_balance"),
        ('{"balance":NaN}', "json"),
        ('{"balance":"1","balance":"2"}', "json"),
        ('{"balance":"1"', "json"),
        ('{"balance":"1"}{}', "json"),
        ('["1"]', "shape"),
        ('"1"', "shape"),
        ("null", "shape"),
        ('{"balance":{"amount":"1"}}', "amount_text"),
        ('{"balance":"1","currency":"USD"}', "currency"),
        ('{"balance":"1","currency":7}', "shape"),
        ('{"balance":"1","available_balance":"NaN"}', "amount_text"),
        ('{"balance":1.005}', "amount_digits"),
        ('{"balance":1e2}', "amount_text"),
    ],
)
def test_what_is_no_balance_is_refused_with_its_reason(body: str, reason: str) -> None:
    assert refused(body) == reason


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UnreadableAnswer, match="json"):
        read_bearer(b'{"balance":"\xff"}')


def test_every_balance_of_the_holdings_interface_is_kept() -> None:
    row = {
        "accountId": "1000000001",
        "accountName": "Somebody",
        "currencyId": "GBP",
        "workingBalance": "10.00",
        "ledgerBalance": "12.00",
        "clearedBalance": "11.50",
        "lockedAmount": "3.00",
        "useableBalance": "7.00",
    }
    audit = {"T24_time": 250, "versionNumber": "1", "requestParse_time": 0.5}
    header = {"audit": audit, "status": "success", "page_size": 1, "page_start": 1, "total_size": 1}
    rows = read_holdings(json.dumps({"header": header, "body": [row]}).encode())
    assert told(rows) == {
        BalanceKind.WORKING: 1_000,
        BalanceKind.LEDGER: 1_200,
        BalanceKind.CLEARED: 1_150,
        BalanceKind.LOCKED: 300,
        BalanceKind.USEABLE: 700,
    }
    assert rows.server_s == 0.25
    assert (rows.page.start, rows.page.size, rows.page.total) == (1, 1, 1)
    assert rows.rows[0].number == "1000000001"


def test_the_middlewares_row_has_no_number_and_numbers_for_amounts() -> None:
    body = (
        b'{"body":[{"workingBalance":10.5,"availableBalance":9,"clearedBalance":"10.50",'
        b'"onlineActualBalance":"","currencyId":"GBP"}]}'
    )
    assert told(read_holdings(body)) == {
        BalanceKind.AVAILABLE: 900,
        BalanceKind.WORKING: 1_050,
        BalanceKind.CLEARED: 1_050,
    }


def test_an_empty_body_is_no_row_and_no_error() -> None:
    rows = read_holdings(b'{"header":{"status":"success"},"body":[]}')
    assert rows.rows == ()
    assert rows.failure is None


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ('{"error":{"code":"X","message":"no","type":"Business"}}', "Business"),
        ('{"error":{"type":"System"},"body":[]}', "System"),
        ('{"error":{}}', "unknown"),
    ],
)
def test_an_error_in_a_success_is_an_error(body: str, failure: str) -> None:
    assert read_holdings(body.encode()).failure == failure


def test_one_bad_amount_spoils_all_balances_of_its_account() -> None:
    body = '{"body":[{"workingBalance":"1.00","clearedBalance":"1,00"}]}'
    assert refused(body, read_holdings) == "amount_text"
    assert refused("{}", read_holdings) == "no_body"
    assert refused('{"body":{}}', read_holdings) == "shape"
    assert refused('{"body":[1]}', read_holdings) == "shape"


@given(st.binary(max_size=60))
def test_any_bytes_end_as_rows_or_a_reason(body: bytes) -> None:
    for read in (read_bearer, read_holdings):
        with contextlib.suppress(UnreadableAnswer):
            assert isinstance(read(body), Rows)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(values, values)
def test_any_values_end_as_a_reading_or_a_reason(first: object, second: object) -> None:
    body = json.dumps({"balance": first, "available_balance": second}).encode()
    try:
        amounts = told(read_bearer(body))
    except UnreadableAnswer:
        return
    assert all(type(minor) is int for minor in amounts.values())


def test_a_row_shows_neither_its_number_nor_its_amounts() -> None:
    row = Row("1000000001", "GBP", {BalanceKind.AVAILABLE: b'"77.77"'})
    assert "1000000001" not in repr(row)
    assert "77.77" not in repr(row)
    assert "1000000001" not in repr(ACCOUNT)
