"""What an attempt's end means: done, once more later, or given up. Plain functions of plain values."""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from steelyard.core.errors import Retry, SteelyardError
from steelyard.jobs.model import State

UNKNOWN_TRIES_MAX: Final = 3
"""Of an error nobody foresaw: tried twice more, then shown as unclassified."""
DELAY_MAX_S: Final = 3_600.0
"""Longest wait between two attempts, and the longest a source's Retry-After is obeyed."""
JITTER: Final = 0.2
UNCLASSIFIED: Final = "unclassified"
MESSAGE_LENGTH_MAX: Final = 500


class Category(StrEnum):
    """What kind of failure an attempt ended with."""

    NETWORK = "network"
    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    AUTHORIZATION = "authorization"
    INVALID = "invalid"
    NOT_FOUND = "not_found"
    DATABASE = "database"
    OVERLOAD = "overload"
    TEMPORARY = "temporary"
    PERMANENT = "permanent"
    UNCLASSIFIED = "unclassified"


CATEGORY_OF_CODE: Final = MappingProxyType(
    {
        "provider_transient": Category.NETWORK,
        "job_timeout": Category.TIMEOUT,
        "provider_rate_limited": Category.RATE_LIMIT,
        "provider_reauth": Category.AUTHORIZATION,
        "provider_revoked": Category.AUTHORIZATION,
        "provider_invalid_request": Category.INVALID,
        "provider_malformed": Category.INVALID,
        "invalid_input": Category.INVALID,
        "provider_not_found": Category.NOT_FOUND,
        "not_found": Category.NOT_FOUND,
        "database_unavailable": Category.DATABASE,
        "overloaded": Category.OVERLOAD,
        "provider_unclassified": Category.UNCLASSIFIED,
        "internal_error": Category.UNCLASSIFIED,
    }
)
_OF_RETRY: Final = MappingProxyType(
    {
        Retry.LATER: Category.TEMPORARY,
        Retry.NEVER: Category.PERMANENT,
        Retry.AFTER_RENEWAL: Category.AUTHORIZATION,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `tries_max`: tries the error allows in all; `retry_after_s`: what the source asked for."""

    code: str
    message: str
    category: Category
    may_retry: bool
    tries_max: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """The attempts of a job so far. `attempt`: that have ended, 1 after the first."""

    run: int
    attempt: int
    attempts_max: int
    delay_s: float
    is_exponential: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows a failure: the state of the run, after which wait, and in a word why."""

    state: State
    delay_s: float
    because: str


def failure_of(error: BaseException) -> Failure:
    """Read what an error means for what comes next.

    An error of ours says it itself: its code, `retry`, and where it has them `tries_max` and `retry_after_s`. Of any
    other only the type's name is told: its message could hold what nobody may see.
    """
    if isinstance(error, SteelyardError) and error.code != SteelyardError.code:
        known = CATEGORY_OF_CODE.get(error.code, _OF_RETRY[error.retry])
        return Failure(
            code=error.code,
            message=str(error)[:MESSAGE_LENGTH_MAX],
            category=known,
            may_retry=error.retry is Retry.LATER,
            tries_max=getattr(error, "tries_max", None),
            retry_after_s=getattr(error, "retry_after_s", None),
        )
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return Failure("timeout", "something took too long", Category.TIMEOUT, may_retry=True)
    if isinstance(error, OSError):
        return Failure("network", f"the network failed ({name})", Category.NETWORK, may_retry=True)
    message = f"the job failed in a way nobody foresaw ({name}); the log says more"
    return Failure(
        UNCLASSIFIED,
        message,
        Category.UNCLASSIFIED,
        may_retry=True,
        tries_max=UNKNOWN_TRIES_MAX,
    )


def decide(failure: Failure, series: Series) -> Decision:
    """Decide what follows a failed attempt: the same run once more after a wait, or its end."""
    if not failure.may_retry:
        return Decision(State.FAILED, 0.0, "permanent")
    allowed = min(series.attempts_max, failure.tries_max or series.attempts_max)
    if series.attempt >= allowed:
        return Decision(State.FAILED, 0.0, "exhausted")
    if failure.retry_after_s is not None:
        asked_s = min(max(failure.retry_after_s, 0.0), DELAY_MAX_S)
        if asked_s >= wait_s(series):
            return Decision(State.RETRYING, asked_s * (1 + JITTER * _share(series)), "retry_after")
    return Decision(State.RETRYING, wait_s(series), "backoff")


def wait_s(series: Series) -> float:
    """Return seconds until the next attempt: the delay, doubled each time, up to a fifth less or more."""
    doubled = 2 ** min(series.attempt - 1, 30) if series.is_exponential else 1
    return min(series.delay_s * doubled * (1 + JITTER * (2 * _share(series) - 1)), DELAY_MAX_S)


def _share(series: Series) -> float:
    """Return a number from 0 up to 1 that this run and attempt always have, spread evenly over runs."""
    digest = sha256(f"{series.run}\0{series.attempt}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
