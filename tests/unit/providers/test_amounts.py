"""A provider's amount is read exactly or not at all."""

import contextlib
import json
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steelyard.core.money import LARGEST_MINOR, Currency, format_major
from steelyard.providers.amounts import UnreadableAmount, parse_amount

GBP, JPY = Currency("GBP", 2), Currency("JPY", 0)
minor_units = st.integers(-LARGEST_MINOR, LARGEST_MINOR)


@given(minor=minor_units, digits=st.integers(0, 4), is_number=st.booleans())
@example(minor=LARGEST_MINOR, digits=2, is_number=True)  # a float would round it
@example(minor=7_210, digits=2, is_number=True)
@example(minor=-1, digits=4, is_number=False)
def test_what_is_written_is_what_is_read(minor: int, digits: int, is_number: bool) -> None:
    text = format_major(minor, digits)
    token = text if is_number else json.dumps(text)
    money = parse_amount(token.encode(), Currency("XTS", digits))
    assert money.minor == minor
    assert type(money.minor) is int


@given(st.text(max_size=12))
def test_any_text_is_read_as_its_exact_value_or_refused(text: str) -> None:
    with contextlib.suppress(UnreadableAmount):
        money = parse_amount(json.dumps(text).encode(), GBP)
        assert Decimal(money.minor) == Decimal(text) * 100


@given(st.binary(max_size=12))
def test_any_bytes_are_read_or_refused(token: bytes) -> None:
    with contextlib.suppress(UnreadableAmount):
        parse_amount(token, GBP)


@pytest.mark.parametrize(
    "token",
    [
        '"NaN"',
        '"Infinity"',
        "NaN",
        "1e2",
        '"1E2"',
        "15.0e1",
        '"1,500.00"',
        '"1 500.00"',
        '"1.500,00"',
        '"+1.00"',
        '" 1.00"',
        '"1.00\\n"',
        '"١٢"',
        '".50"',
        '"1."',
        '"--1"',
        '"0x10"',
        '"GBP 1.00"',
        "true",
        "null",
        "[1]",
        '{"v":1}',
        '""',
        "",
        '"12345678901234567"',
    ],
)
def test_what_is_no_plain_decimal_is_refused(token: str) -> None:
    with pytest.raises(UnreadableAmount, match="amount_text"):
        parse_amount(token.encode(), GBP)


@pytest.mark.parametrize("token", ['"10.505"', "10.505", '"0.001"', '"90071992547409.92"'])
def test_more_digits_than_the_currency_has_or_too_large_is_refused(token: str) -> None:
    with pytest.raises(UnreadableAmount, match="amount_digits"):
        parse_amount(token.encode(), GBP)


@pytest.mark.parametrize("token", ['"-0"', "-0", "-0.0", '"-0.00"'])
def test_negative_zero_is_refused(token: str) -> None:
    with pytest.raises(UnreadableAmount, match="amount_negative_zero"):
        parse_amount(token.encode(), GBP)


def test_zeros_behind_the_last_digit_change_nothing() -> None:
    assert parse_amount(b'"10.500"', GBP).minor == 1_050
    assert parse_amount(b"10.00", JPY).minor == 10
