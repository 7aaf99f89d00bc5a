"""What every provider promises: run each check of `PROVIDER_CONTRACT` on a provider of yours.

for check in PROVIDER_CONTRACT:
    async with make_provider() as subject:
        await check(subject)
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum

from steelyard.providers.contract import (
    AccountProblem,
    AccountReading,
    BalanceKind,
    BalanceReading,
    Provider,
    Target,
    TargetAccount,
)
from steelyard.providers.errors import (
    ProviderError,
    ProviderMalformed,
    ProviderNotFound,
    ProviderRateLimited,
    ProviderReauth,
    ProviderRevoked,
    ProviderTransient,
    ProviderUnclassified,
)
from steelyard.providers.load import check_manifest

DEADLINE_S = 5.0
SHORT_DEADLINE_S = 0.3
GRACE_S = 1.0
"""What a busy machine may add to a deadline before it counts as missed."""


class Ailment(StrEnum):
    """A way in which a source fails."""

    UNREACHABLE = "unreachable"
    RESET = "reset"
    HANGING = "hanging"
    DRIBBLING = "dribbling"
    CUT_OFF = "cut_off"
    OUTAGE = "outage"
    RATE_LIMITED = "rate_limited"
    BAD_CREDENTIAL = "bad_credential"
    NOT_PERMITTED = "not_permitted"
    NOT_READABLE = "not_readable"
    UNKNOWN_FAILURE = "unknown_failure"
    BAD_VALUES = "bad_values"


ENDLESS = frozenset({Ailment.HANGING, Ailment.DRIBBLING})
"""Those that only a deadline ends; they must last longer than `SHORT_DEADLINE_S`."""

EXPECTED: Mapping[Ailment, tuple[type[ProviderError], ...]] = {
    Ailment.UNREACHABLE: (ProviderTransient,),
    Ailment.RESET: (ProviderTransient,),
    Ailment.HANGING: (ProviderTransient,),
    Ailment.DRIBBLING: (ProviderTransient,),
    Ailment.CUT_OFF: (ProviderTransient, ProviderMalformed),
    Ailment.OUTAGE: (ProviderTransient,),
    Ailment.RATE_LIMITED: (ProviderRateLimited,),
    Ailment.BAD_CREDENTIAL: (ProviderReauth,),
    Ailment.NOT_PERMITTED: (ProviderRevoked,),
    Ailment.NOT_READABLE: (ProviderMalformed,),
    Ailment.UNKNOWN_FAILURE: (ProviderUnclassified,),
    Ailment.BAD_VALUES: (ProviderMalformed,),
}
"""What each ailment ends as, raised or as a problem of every account."""

Truth = Mapping[str, Mapping[BalanceKind, int]]


@dataclass(frozen=True, slots=True)
class ProviderUnderTest:
    """An open provider and the source behind it.

    Args:
        target: At least two accounts that the source knows, with different balances.
        unknown: An account that it does not know.
        truth: Returns the true balances by number and kind, in minor units.
        ail: Makes the source fail for every request until it is healed.
        heal: Makes it well again.
        ailments: Those that this source can have.
        secrets: Texts that no error may hold: credentials, and more than the accounts' numbers if there is more.
    """

    provider: Provider
    target: Target
    unknown: TargetAccount
    truth: Callable[[], Truth]
    ail: Callable[[Ailment], Awaitable[None]]
    heal: Callable[[], Awaitable[None]]
    ailments: frozenset[Ailment] = frozenset(Ailment)
    secrets: Sequence[str] = field(default=(), repr=False)


ProviderCheck = Callable[[ProviderUnderTest], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WholeReading:
    """What all requests for one target brought together."""

    readings: tuple[AccountReading, ...]
    problems: tuple[AccountProblem, ...]
    calls: int


async def fetch_all(
    provider: Provider, target: Target, *, deadline_s: float = DEADLINE_S
) -> WholeReading:
    """Ask until nothing is left, and check that every account is told of exactly once.

    Raises:
        ProviderError: A request brought no answer that can be used.
        AssertionError: An account is lost or told of twice, or the end is not reached.
    """
    readings: list[AccountReading] = []
    problems: list[AccountProblem] = []
    rest: Target | None = target
    calls = 0
    while rest is not None:
        assert calls <= 2 * len(target.accounts) + 50, "the provider never comes to an end"
        asked = rest
        answer = await provider.fetch_balances(asked, deadline_s=deadline_s)
        calls += 1
        _check_places(asked, answer)
        readings += answer.readings
        problems += answer.problems
        rest = answer.rest
    return WholeReading(tuple(readings), tuple(problems), calls)


def _check_places(asked: Target, answer: BalanceReading) -> None:
    places = [one.account for one in answer.readings]
    places += [one.account for one in answer.problems]
    places += answer.rest.accounts if answer.rest is not None else ()
    assert sorted(one.number for one in places) == sorted(one.number for one in asked.accounts)
    assert set(places) == set(asked.accounts)
    assert answer.rest is None or answer.rest.accounts


async def check_the_manifest_is_acceptable(subject: ProviderUnderTest) -> None:
    """The engine can keep to what is declared."""
    manifest = subject.provider.manifest
    check_manifest(manifest, name=manifest.name)


async def check_every_balance_is_the_true_one(subject: ProviderUnderTest) -> None:
    """Every kind that is reported is declared, exact, in the account's currency, and true when it was asked for."""
    told = await fetch_all(subject.provider, subject.target)
    truth = subject.truth()
    assert told.problems == ()
    assert {one.account.number for one in told.readings} == {
        one.number for one in subject.target.accounts
    }
    for reading in told.readings:
        kinds = [one.kind for one in reading.balances]
        assert kinds
        assert len(kinds) == len(set(kinds))
        assert subject.provider.manifest.balance_kinds.issuperset(kinds)
        for balance in reading.balances:
            assert type(balance.money.minor) is int
            assert balance.money.currency == reading.account.currency
            assert balance.money.minor == truth[reading.account.number][balance.kind]
            assert balance.as_of.utcoffset() == timedelta(0)


async def check_asking_again_tells_the_same(subject: ProviderUnderTest) -> None:
    """A call writes nothing and may be repeated; any order of the accounts brings the same balances."""
    turned = replace(subject.target, accounts=subject.target.accounts[::-1])
    first = await fetch_all(subject.provider, subject.target)
    second = await fetch_all(subject.provider, turned)
    assert _amounts(first) == _amounts(second)


def _amounts(told: WholeReading) -> dict[tuple[str, BalanceKind], int]:
    return {
        (reading.account.number, balance.kind): balance.money.minor
        for reading in told.readings
        for balance in reading.balances
    }


async def check_an_unknown_account_spoils_no_other(subject: ProviderUnderTest) -> None:
    """It is told as not found, and the accounts beside it are read."""
    for accounts in (
        (subject.unknown,),
        (subject.unknown, *subject.target.accounts),
        (*subject.target.accounts, subject.unknown),
    ):
        told = await fetch_all(subject.provider, replace(subject.target, accounts=accounts))
        (problem,) = told.problems
        assert problem.account == subject.unknown
        assert isinstance(problem.error, ProviderNotFound)
        assert len(told.readings) == len(accounts) - 1


async def check_many_callers_get_their_own_answers(subject: ProviderUnderTest) -> None:
    """Calls at once do not mix."""
    accounts = subject.target.accounts * 15
    alone = [replace(subject.target, accounts=(one,)) for one in accounts]
    told = await asyncio.gather(*(fetch_all(subject.provider, one) for one in alone))
    truth = subject.truth()
    for account, one in zip(accounts, told, strict=True):
        (reading,) = one.readings
        assert reading.account == account
        assert all(
            balance.money.minor == truth[account.number][balance.kind]
            for balance in reading.balances
        )


async def check_every_failure_has_its_type_within_the_deadline(subject: ProviderUnderTest) -> None:
    """No ailment brings a balance, another exception, or an answer after the deadline; each is over when healed."""
    loop = asyncio.get_running_loop()
    for ailment in sorted(subject.ailments):
        deadline_s = SHORT_DEADLINE_S if ailment in ENDLESS else DEADLINE_S
        await subject.ail(ailment)
        began_s = loop.time()
        try:
            errors = await _errors_of(subject, deadline_s)
        finally:
            await subject.heal()
        assert loop.time() - began_s <= deadline_s + GRACE_S, ailment
        assert errors, ailment
        for error in errors:
            assert isinstance(error, EXPECTED[ailment]), f"{ailment}: {error!r}"
            _check_says_no_secret(error, subject)
        assert (await fetch_all(subject.provider, subject.target)).problems == ()


async def _errors_of(subject: ProviderUnderTest, deadline_s: float) -> list[ProviderError]:
    try:
        told = await subject.provider.fetch_balances(subject.target, deadline_s=deadline_s)
    except ProviderError as error:
        return [error]
    assert told.readings == (), "a balance was believed"
    return [one.error for one in told.problems]


def _check_says_no_secret(error: BaseException, subject: ProviderUnderTest) -> None:
    numbers = [one.number for one in (*subject.target.accounts, subject.unknown)]
    cause: BaseException | None = error
    while cause is not None:
        fields = str(cause.fields()) if isinstance(cause, ProviderError) else ""
        said = f"{cause} {cause!r} {fields}"
        assert not [one for one in (*numbers, *subject.secrets) if one in said]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


async def check_a_cancelled_call_leaves_nothing_behind(subject: ProviderUnderTest) -> None:
    """Cancelling ends a call at once; as many as may be in flight can be cancelled, and the next is answered."""
    await subject.ail(Ailment.HANGING)
    calls = [
        asyncio.create_task(subject.provider.fetch_balances(subject.target, deadline_s=DEADLINE_S))
        for _ in range(subject.provider.manifest.limits.in_flight + 1)
    ]
    await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()
    ended = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), DEADLINE_S)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    await subject.heal()
    assert (await fetch_all(subject.provider, subject.target)).problems == ()


PROVIDER_CONTRACT: tuple[ProviderCheck, ...] = (
    check_the_manifest_is_acceptable,
    check_every_balance_is_the_true_one,
    check_asking_again_tells_the_same,
    check_an_unknown_account_spoils_no_other,
    check_many_callers_get_their_own_answers,
    check_every_failure_has_its_type_within_the_deadline,
    check_a_cancelled_call_leaves_nothing_behind,
)
