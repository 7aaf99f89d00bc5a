"""A line of purchases is what it says, and is nobody else's line."""

from collections import Counter
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InvalidInput
from steelyard.core.money import Currency, Money, format_major
from steelyard.ledger.purchases import (
    LINE_BYTES_MAX,
    Purchase,
    RefusedLine,
    check_source,
    read_purchases,
)

GBP = Currency("GBP", 2)
HEADER = b"date,card,merchant,amount_gbp\n"
SHIPPED = Path(__file__).parents[2] / "src/steelyard/data/card-purchases-2014-10.csv"


def read(lines: Iterable[bytes], source: str = "october.csv") -> list[Purchase | RefusedLine]:
    """Read lines after a good header."""
    seen: Counter[bytes] = Counter()

    def count(content: bytes) -> int:
        seen[content] += 1
        return seen[content]

    return list(read_purchases([HEADER, *lines], source, GBP, count=count))


def keys(lines: Iterable[bytes], source: str = "october.csv") -> list[str]:
    """Return the keys of lines that are all good."""
    found = read(lines, source)
    assert all(isinstance(line, Purchase) for line in found)
    return [line.key for line in found if isinstance(line, Purchase)]


def refusal(line: bytes) -> RefusedLine:
    """Return why the one line given is refused."""
    (found,) = read([line])
    assert isinstance(found, RefusedLine)
    return found


amounts = st.integers(min_value=-(10**11), max_value=10**11).filter(bool)
cards = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True)
merchants = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=40
).filter(lambda text: text.strip() == text)
dates = st.dates()


def quoted(text: str) -> str:
    """Write a field as CSV does when it may hold anything."""
    return '"' + text.replace('"', '""') + '"'


@given(dates, cards, merchants, amounts, st.booleans())
def test_every_good_line_is_read_to_the_penny(
    on: date, card: str, merchant: str, minor: int, has_cr: bool
) -> None:
    end = "\r\n" if has_cr else "\n"
    line = f"{on.isoformat()},{card},{quoted(merchant)},{format_major(minor, 2)}{end}"
    (found,) = read([line.encode()])
    assert isinstance(found, Purchase)
    assert (found.line, found.on, found.card, found.merchant) == (2, on, card, merchant)
    assert found.amount == Money(minor, GBP)


@given(
    st.lists(
        st.sampled_from([b"2014-10-01,1,a,1.00", b"2014-10-01,1,a,2.00", b"2014-10-01,2,a,1.00"])
    )
)
def test_every_line_of_a_file_has_a_key_of_its_own(lines: list[bytes]) -> None:
    assert len(set(keys(lines))) == len(lines)


@given(
    st.lists(st.sampled_from([b"2014-10-01,1,a,1.00", b"2014-10-02,1,b,2.00"]), max_size=8),
    st.lists(st.binary(max_size=30).filter(lambda raw: b"\n" not in raw), max_size=5),
    st.randoms(use_true_random=False),
)
def test_keys_do_not_depend_on_order_or_on_refused_lines(
    lines: list[bytes], noise: list[bytes], chance: Random
) -> None:
    mixed = [*lines, *(b"x," + raw for raw in noise)]
    chance.shuffle(mixed)
    taken = [line.key for line in read(mixed) if isinstance(line, Purchase)]
    assert sorted(taken) == sorted(keys(lines))


@given(st.binary(max_size=80))
def test_no_line_raises_whatever_it_holds(raw: bytes) -> None:
    for found in read([raw]):
        assert isinstance(found, Purchase | RefusedLine)


def test_the_same_line_in_another_source_is_another_purchase() -> None:
    line = [b"2014-10-01,1,a,1.00"]
    assert keys(line, "a.csv") != keys(line, "b.csv")


def test_line_ends_and_quotes_do_not_change_an_identity() -> None:
    plain, other = keys([b"2014-10-01,1,tea,1.00\n"]), keys([b'"2014-10-01",1,"tea",1.00\r\n'])
    assert plain == other


def test_the_third_of_identical_lines_is_numbered_three() -> None:
    found = keys([b"2014-10-01,1,tea,1.00\n"] * 3)
    assert [key.rpartition("/")[2] for key in found] == ["1", "2", "3"]
    assert {key.rpartition("/")[0].startswith("import/october.csv/") for key in found} == {True}


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b"2014-10-01,1,tea", "line", "it has 3 columns, not 4"),
        (b"2014-10-01,1,tea,1.00,x", "line", "it has 5 columns, not 4"),
        (b"2014-10-01,1,tea,1.005", "amount_gbp", "'1.005' has more than 2 decimal digits"),
        (b"2014-10-01,1,tea,0.00", "amount_gbp", "it is zero"),
        (b"2014-10-01,1,tea,-0", "amount_gbp", "it is zero"),
        (b"2014-10-01,1,tea,1e3", "amount_gbp", "'1e3' is not a decimal number"),
        (b"2014-10-01,1,tea,NaN", "amount_gbp", "'NaN' is not a decimal number"),
        (b'2014-10-01,1,tea,"1,000.00"', "amount_gbp", "'1,000.00' is not a decimal number"),
        (
            b"2014-10-01,1,tea,90071992547409.92",
            "amount_gbp",
            "'90071992547409.92' is beyond 2^53 - 1 minor units",
        ),
        (b"2014-13-01,1,tea,1.00", "date", "'2014-13-01' is not a date such as 2014-10-31"),
        (b"01/10/2014,1,tea,1.00", "date", "'01/10/2014' is not a date such as 2014-10-31"),
        (b"2014-10-01,,tea,1.00", "card", "'' is not 1 to 64 letters, digits and ._-"),
        (b"2014-10-01,a/b,tea,1.00", "card", "'a/b' is not 1 to 64 letters, digits and ._-"),
        (b"2014-10-01,1,,1.00", "merchant", "it has 0 characters, not 1 to 200"),
        (b"2014-10-01,1,t\xe9a,1.00", "line", "byte 15 is not UTF-8"),
        (b"2014-10-01,1,t\x00a,1.00", "line", "it holds a control or other unprintable character"),
        (b'2014-10-01,1,"tea,1.00', "line", "its quotes do not match (unexpected end of data)"),
        (b"x" * (LINE_BYTES_MAX + 1), "line", "it is longer than 16384 bytes"),
    ],
)
def test_a_refused_line_says_where_and_why(line: bytes, field: str, reason: str) -> None:
    assert refusal(line) == RefusedLine(2, field, reason)


@pytest.mark.parametrize("header", [b"", b"date;card;merchant;amount_gbp\n", b"\xff\xfe\n"])
def test_another_header_refuses_the_file(header: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(read_purchases([header], "a.csv", GBP, count=lambda _: 1))
    assert caught.value.field == "header"


def test_a_byte_order_mark_and_empty_lines_are_no_purchases() -> None:
    lines = [b"\xef\xbb\xbf" + HEADER, b"\r\n", b"2014-10-01,1,tea,1.00\r\n", b"\n"]
    (found,) = read_purchases(lines, "a.csv", GBP, count=lambda _: 1)
    assert isinstance(found, Purchase)
    assert found.line == 3


@pytest.mark.parametrize("source", ["", "a/b", "../x", "a\nb", "x" * 101, " a"])
def test_a_source_that_could_confuse_keys_is_refused(source: str) -> None:
    with pytest.raises(InvalidInput):
        check_source(source)


def test_the_shipped_month_is_whole() -> None:
    with SHIPPED.open("rb") as file:
        next(file)
        found = read(file, SHIPPED.name)
    purchases = [line for line in found if isinstance(line, Purchase)]
    assert (len(found), len(purchases), len({line.key for line in purchases})) == (3923, 3923, 3923)
    assert sum(line.amount.minor for line in purchases) == 60_036_969
    assert sum(line.amount.minor < 0 for line in purchases) == 74
    assert sum(int(line.key.rpartition("/")[2]) > 1 for line in purchases) == 109
