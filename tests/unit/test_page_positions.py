"""Cursors that nobody was given: whatever number they hold, they are refused and never fail."""

import pytest

from steelyard.access.pages import Place, write_cursor
from steelyard.balances.api.context import read_position
from steelyard.core.errors import InvalidInput


@pytest.mark.parametrize(
    "key", ["", "0", "-1", "٣", "1.0", "9" * 19, "00000000000000000001" + "9" * 30, "1" + "0" * 700]
)
def test_a_position_that_cannot_be_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput):
        read_position(write_cursor(Place("accounts", key)), of="accounts")


def test_a_position_comes_back_as_it_was_written() -> None:
    assert read_position(write_cursor(Place("accounts", "17")), of="accounts") == 17
    assert read_position(None, of="accounts") is None
