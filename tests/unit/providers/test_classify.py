"""Each status has one type of error, and Retry-After is believed within reason."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import Retry
from steelyard.providers.classify import RETRY_AFTER_S_MAX, error_of_status, retry_after_s
from steelyard.providers.errors import (
    ProviderError,
    ProviderMalformed,
    ProviderNotFound,
    ProviderRateLimited,
    ProviderReauth,
    ProviderRefusedRequest,
    ProviderRevoked,
    ProviderTransient,
    ProviderUnclassified,
)

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (201, ProviderMalformed),
        (204, ProviderMalformed),
        (302, ProviderMalformed),
        (400, ProviderRefusedRequest),
        (401, ProviderReauth),
        (403, ProviderRevoked),
        (404, ProviderNotFound),
        (408, ProviderTransient),
        (418, ProviderUnclassified),
        (429, ProviderRateLimited),
        (500, ProviderTransient),
        (501, ProviderUnclassified),
        (502, ProviderTransient),
        (503, ProviderTransient),
        (504, ProviderTransient),
        (524, ProviderTransient),
        (599, ProviderUnclassified),
    ],
)
def test_a_status_has_its_type(status: int, kind: type[ProviderError]) -> None:
    error = error_of_status(status, {}, provider="t24", now=NOW)
    assert type(error) is kind
    assert error.reason == f"status_{status}"
    assert error.retry_after_s is None


def test_only_what_can_pass_is_tried_again() -> None:
    again = {
        kind
        for kind in ProviderError.__subclasses__()
        if kind.retry is Retry.LATER and kind.__module__.startswith("steelyard.")
    }
    assert again == {
        ProviderTransient,
        ProviderRateLimited,
        ProviderMalformed,
        ProviderUnclassified,
    }
    assert ProviderUnclassified.tries_max == 3
    assert {ProviderReauth.retry, ProviderRevoked.retry} == {Retry.AFTER_RENEWAL}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("86401", RETRY_AFTER_S_MAX),
        ("999999999999", RETRY_AFTER_S_MAX),
        ("9" * 5_000, None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sat, 21 Nov 2099 12:00:00 GMT", RETRY_AFTER_S_MAX),
        ("Sat, 99 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_in_seconds_and_dates(header: str, expected: float | None) -> None:
    assert retry_after_s({"retry-after": header}, now=NOW) == expected


def test_a_date_is_compared_with_the_answers_own_clock() -> None:
    headers = {
        "retry-after": "Sat, 21 Nov 2026 15:00:05 GMT",
        "date": "Sat, 21 Nov 2026 15:00:00 GMT",
    }
    assert retry_after_s(headers, now=NOW) == 5.0


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_raises_or_asks_for_more_than_a_day(header: str, date: str) -> None:
    wait_s = retry_after_s({"retry-after": header, "date": date}, now=NOW)
    assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_S_MAX


def test_the_wait_goes_with_the_error() -> None:
    error = error_of_status(503, {"retry-after": "60"}, provider="t24", now=NOW)
    assert error.retry_after_s == 60.0
    assert error.fields() == {
        "provider": "t24",
        "reason": "status_503",
        "scope": "provider",
        "retry_after_s": 60.0,
    }
