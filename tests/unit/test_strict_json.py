"""JSON with one meaning: what could be read two ways is refused, and no number is ever rounded."""

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import InvalidInput
from steelyard.runtime.strict_json import (
    DEPTH_MAX,
    MalformedBody,
    parse_json,
    read_body,
    read_query,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    amount: int
    note: str | None = None
    flag: bool = False


class Query(msgspec.Struct, forbid_unknown_fields=True):
    limit: int = 10
    name: str | None = None


@given(VALUES)
def test_what_json_writes_is_read_back_whole(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_our_own_errors(body: bytes) -> None:
    with suppress(MalformedBody, InvalidInput):
        parse_json(body)
    with suppress(MalformedBody, InvalidInput):
        read_body(body, Shape)


@given(st.binary(max_size=60))
def test_no_query_raises_anything_but_invalid_input(query: bytes) -> None:
    with suppress(InvalidInput):
        read_query(query, Query)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 2}',
        b'{"x": [{"a": 1, "a": 1}]}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"\xff",
        b"{",
        b"1 2",
        b"9" * 5000,
        b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1),
        b"[" * 60_000,
    ],
)
def test_a_body_with_two_meanings_or_none_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse_json(body)


@pytest.mark.parametrize(
    "text", [b'"\\u0000"', b'["\\ud800"]', b'{"\\udc00": 1}', b'{"a": {"b": "\\u0000"}}']
)
def test_a_text_the_database_cannot_keep_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_json(text)


def test_decimals_are_exact_and_never_integers_or_texts() -> None:
    assert parse_json(b"[0.1, 1e2]") == [Decimal("0.1"), Decimal("1e2")]
    for body in (b'{"amount": 1.0}', b'{"amount": 1e3}', b'{"amount": 1, "note": 1.5}'):
        with pytest.raises(InvalidInput):
            read_body(body, Shape)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "amount"),
        (b"", "amount"),
        (b'{"amount": true}', "amount"),
        (b'{"amount": "1"}', "amount"),
        (b'{"amount": 1, "flag": 1}', "flag"),
        (b'{"amount": 1, "surprise": 1}', "surprise"),
        (b"[]", "body"),
    ],
)
def test_an_error_names_the_field(body: bytes, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_body(body, Shape)
    assert caught.value.field == field


def test_query_parameters_come_once_and_are_known() -> None:
    assert read_query(b"", Query) == Query()
    assert read_query(b"limit=7&name=a%20b", Query) == Query(7, "a b")
    for query in (b"limit=1&limit=1", b"what=1", b"limit=x", b"name=%00", b"limit=1_0"):
        with pytest.raises(InvalidInput):
            read_query(query, Query)
