"""A stream of pushes reads the same however it is cut, and nonsense ends it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, ResponseError

from steelyard.runtime.redis.pushes import PART_BYTES_MAX, PushReader


def written(push: list[bytes]) -> bytes:
    """A push as the server sends it."""
    parts = b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in push)
    return b"*%d\r\n%b" % (len(push), parts)


@given(
    pushes=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=5),
    cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=8),
)
def test_a_stream_reads_the_same_however_it_is_cut(
    pushes: list[list[bytes]], cuts: list[int]
) -> None:
    stream = b"".join(written(push) for push in pushes)
    reader, found = PushReader(), []
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for begin, end in pairwise(places):
        found += reader.feed(stream[begin:end])
    assert found == pushes


def test_numbers_and_nothing_are_parts_too() -> None:
    stream = b"*3\r\n$9\r\nsubscribe\r\n$-1\r\n:12\r\n"
    assert PushReader().feed(stream) == [[b"subscribe", b"", b"12"]]


@pytest.mark.parametrize(
    "stream",
    [
        b"+OK\r\n",
        b"*x\r\n",
        b"*1\r\n+no\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$%d\r\n" % (PART_BYTES_MAX + 1),
    ],
)
def test_what_is_no_push_ends_the_stream(stream: bytes) -> None:
    with pytest.raises(InvalidResponse):
        PushReader().feed(stream)


def test_an_error_of_the_server_is_raised() -> None:
    with pytest.raises(ResponseError, match="NOPERM"):
        PushReader().feed(b"-NOPERM no\r\n")
