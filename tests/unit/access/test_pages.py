"""Cursors lead on and cannot be made up; names hold what people are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.access.names import check_name
from steelyard.access.pages import Place, read_cursor, write_cursor
from steelyard.core.errors import InvalidInput
from steelyard.core.ids import parse_user_id

printable = st.text(min_size=1, max_size=128).filter(str.isprintable)


@given(printable)
def test_cursor_leads_back_to_its_place(key: str) -> None:
    cursor = write_cursor(Place("users", parse_user_id(key)))
    assert read_cursor(cursor, of="users") == key
    with pytest.raises(InvalidInput):
        read_cursor(cursor, of="keys")


def test_longest_user_id_fits_into_a_cursor() -> None:
    key = "\U0001f600" * 128
    assert read_cursor(write_cursor(Place("users", key)), of="users") == key


@given(st.text(max_size=80))
def test_any_other_text_is_refused_as_invalid(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_cursor(text, of="users")


@pytest.mark.parametrize("name", ["Zoë", "می‌خواهم", "👩‍👩‍👧", "O'Brien -- x", "=1+1", "x" * 200])
def test_names_of_people_pass(name: str) -> None:
    check_name(name, field="display_name")


@pytest.mark.parametrize(
    "name", ["", "x" * 201, "a\nb", "a\x00", "\x1b[31m", "a\u202eb", "\ud800", "a\u2028b"]
)
def test_names_that_play_tricks_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_name(name, field="display_name")
    assert refused.value.field == "display_name"
