"""Tells from an answer's status and headers what kind of failure it is."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Final

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

RETRY_AFTER_S_MAX: Final = 86_400.0
"""Longest wait that is believed: an absurd one would switch a provider off for ever."""

_SECONDS = re.compile(r"[0-9]{1,12}")

_KINDS: Mapping[int, type[ProviderError]] = MappingProxyType(
    {
        400: ProviderRefusedRequest,
        401: ProviderReauth,
        403: ProviderRevoked,
        404: ProviderNotFound,
        405: ProviderRefusedRequest,
        406: ProviderRefusedRequest,
        408: ProviderTransient,
        410: ProviderNotFound,
        411: ProviderRefusedRequest,
        413: ProviderRefusedRequest,
        414: ProviderRefusedRequest,
        415: ProviderRefusedRequest,
        422: ProviderRefusedRequest,
        425: ProviderTransient,
        429: ProviderRateLimited,
        431: ProviderRefusedRequest,
        500: ProviderTransient,
        502: ProviderTransient,
        503: ProviderTransient,
        504: ProviderTransient,
        **dict.fromkeys(
            range(520, 528), ProviderTransient
        ),  # a proxy that cannot reach the provider
    }
)


def error_of_status(
    status: int, headers: Mapping[str, str], *, provider: str, now: datetime
) -> ProviderError:
    """Return the error that a status other than 200 stands for.

    Args:
        status: HTTP status.
        headers: Of the answer, found by lower-case names.
        provider: Name in the manifest.
        now: UTC, for a `Retry-After` that is a date where the answer has no date of its own.
    """
    if status < 400:  # another success promises no balances, and a redirect is never followed
        kind: type[ProviderError] = ProviderMalformed
    else:
        kind = _KINDS.get(status, ProviderUnclassified)
    return kind(
        provider=provider,
        reason=f"status_{status}",
        retry_after_s=retry_after_s(headers, now=now),
    )


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return the seconds of `Retry-After`, zero to a day, or None where there is none that can be read.

    A date is compared with the answer's own `Date`, so that a clock that differs from ours does no harm.
    """
    text = (headers.get("retry-after") or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_S_MAX)
    until = _parse_date(text)
    if until is None:
        return None
    wait_s = (until - (_parse_date(headers.get("date") or "") or now)).total_seconds()
    return float(math.ceil(min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)))


def _parse_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
