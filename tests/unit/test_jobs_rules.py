"""What follows a failed attempt, by its error."""

import asyncio
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.core.errors import (
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    Overloaded,
    Retry,
    SteelyardError,
)
from steelyard.jobs.errors import JobTimeout, UnknownKind
from steelyard.jobs.model import HandledKind, Kind, Kinds, RunContext, State
from steelyard.jobs.rules import (
    CATEGORY_OF_CODE,
    DELAY_MAX_S,
    Category,
    Decision,
    Failure,
    Series,
    decide,
    failure_of,
    wait_s,
)
from steelyard.providers.errors import (
    ErrorScope,
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


class Passing(SteelyardError):
    """May pass; of no category of its own."""

    code: ClassVar[str] = "passing"
    retry: ClassVar[Retry] = Retry.LATER


class Lasting(SteelyardError):
    """Will not pass."""

    code: ClassVar[str] = "lasting"


class Nameless(SteelyardError):
    """Has no code of its own."""


def provider(kind: type[ProviderError], retry_after_s: float | None = None) -> ProviderError:
    return kind(provider="bank", reason="x", scope=ErrorScope.PROVIDER, retry_after_s=retry_after_s)


@pytest.mark.parametrize(
    ("error", "category", "tries"),
    [
        (provider(ProviderTransient), Category.NETWORK, 5),
        (provider(ProviderRateLimited), Category.RATE_LIMIT, 5),
        (provider(ProviderReauth), Category.AUTHORIZATION, 1),
        (provider(ProviderRevoked), Category.AUTHORIZATION, 1),
        (provider(ProviderRefusedRequest), Category.INVALID, 1),
        (provider(ProviderNotFound), Category.NOT_FOUND, 1),
        (provider(ProviderMalformed), Category.INVALID, 3),
        (provider(ProviderUnclassified), Category.UNCLASSIFIED, 3),
        (DatabaseUnavailable(doing="x"), Category.DATABASE, 5),
        (Overloaded(queue="x", limit=1), Category.OVERLOAD, 5),
        (InvalidInput(field="x", problem="y"), Category.INVALID, 1),
        (NotFound(kind="x", identifier="y"), Category.NOT_FOUND, 1),
        (JobTimeout(kind="x", timeout_s=3), Category.TIMEOUT, 5),
        (Passing("x"), Category.TEMPORARY, 5),
        (Lasting("x"), Category.PERMANENT, 1),
        (TimeoutError(), Category.TIMEOUT, 5),
        (ConnectionResetError("x"), Category.NETWORK, 5),
        (ValueError("x"), Category.UNCLASSIFIED, 3),
        (Nameless("x"), Category.UNCLASSIFIED, 3),
        (asyncio.CancelledError(), Category.UNCLASSIFIED, 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_an_error_has_a_category_and_so_many_tries_of_five(
    error: BaseException, category: Category, tries: int
) -> None:
    failure = failure_of(error)
    assert failure.category is category
    states = [decide(failure, Series(7, attempt, 5, 1.0)).state for attempt in range(1, 6)]
    assert states.index(State.FAILED) + 1 == tries
    assert set(states[: tries - 1]) <= {State.RETRYING}


def test_every_code_that_has_a_category_is_a_code_of_the_product() -> None:
    def below(kind: type[SteelyardError]) -> set[str]:
        return {kind.code}.union(*(below(one) for one in kind.__subclasses__()))

    assert CATEGORY_OF_CODE.keys() <= below(SteelyardError)


def test_nothing_of_an_unforeseen_error_but_its_type_is_told() -> None:
    failure = failure_of(ValueError("password=hunter2"))
    assert failure.code == "unclassified"
    assert "hunter2" not in failure.message
    assert "ValueError" in failure.message


def temporary(retry_after_s: float | None = None) -> Failure:
    return Failure("x", "y", Category.NETWORK, may_retry=True, retry_after_s=retry_after_s)


@given(run=st.integers(1, 2**62), attempt=st.integers(1, 99), delay_s=st.floats(0.001, 600))
def test_each_wait_is_twice_the_one_before_up_to_a_fifth_more_or_less_and_an_hour(
    run: int, attempt: int, delay_s: float
) -> None:
    series = Series(run, attempt, 100, delay_s)
    waited = wait_s(series)
    assert waited == wait_s(series)
    middle = delay_s * 2 ** min(attempt - 1, 30)
    assert min(0.8 * middle, DELAY_MAX_S) - 1e-6 <= waited <= min(1.2 * middle, DELAY_MAX_S) + 1e-6


def test_waits_of_runs_that_failed_together_are_spread() -> None:
    waits = [wait_s(Series(run, 1, 3, 10.0)) for run in range(1_000)]
    assert min(waits) < 8.2
    assert max(waits) > 11.8
    assert abs(sum(waits) / len(waits) - 10.0) < 0.2


def test_a_kind_that_is_not_exponential_waits_the_same_each_time() -> None:
    for attempt in range(1, 9):
        assert 8.0 <= wait_s(Series(7, attempt, 9, 10.0, is_exponential=False)) <= 12.0


@pytest.mark.parametrize(
    ("asked_s", "least_s", "most_s", "because"),
    [
        (60.0, 60.0, 72.0, "retry_after"),
        (1e9, 3_600.0, 4_320.0, "retry_after"),
        (0.5, 8.0, 12.0, "backoff"),
        (-5.0, 8.0, 12.0, "backoff"),
    ],
)
def test_who_asks_us_to_wait_is_obeyed_for_up_to_an_hour(
    asked_s: float, least_s: float, most_s: float, because: str
) -> None:
    decision = decide(temporary(asked_s), Series(7, 1, 3, 10.0))
    assert (decision.state, decision.because) == (State.RETRYING, because)
    assert least_s <= decision.delay_s <= most_s


def test_a_permanent_error_is_never_tried_again_and_the_last_attempt_is_the_last() -> None:
    lasting = Failure("x", "y", Category.PERMANENT, may_retry=False)
    assert decide(lasting, Series(7, 1, 9, 1.0)) == Decision(State.FAILED, 0.0, "permanent")
    assert decide(temporary(), Series(7, 3, 3, 1.0)) == Decision(State.FAILED, 0.0, "exhausted")


async def _nothing(context: RunContext) -> dict[str, object]:
    return {}


def test_a_kind_is_found_by_its_name_and_its_aliases_and_no_other() -> None:
    handled = HandledKind(Kind("verify", aliases=("balance-verify-sync",)), _nothing)
    kinds = Kinds([handled])
    assert kinds.get("verify") is handled
    assert kinds.get("balance-verify-sync") is handled
    assert kinds.names == ("verify",)
    with pytest.raises(UnknownKind) as refused:
        kinds.get("polish-coins")
    assert refused.value.fields() == {"kind": "polish-coins", "known": ["verify"]}


def test_two_kinds_of_one_name_are_refused() -> None:
    one = HandledKind(Kind("verify", aliases=("check",)), _nothing)
    with pytest.raises(AssertionError, match="check"):
        Kinds([one, HandledKind(Kind("check"), _nothing)])
