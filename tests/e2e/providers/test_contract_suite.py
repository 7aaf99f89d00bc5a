"""The public suite notices each way of breaking the contract: a suite that passes everybody proves nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from steelyard.core.errors import SteelyardError
from steelyard.core.money import Money
from steelyard.providers.contract import (
    API_VERSION,
    AccountReading,
    BalanceKind,
    BalanceReading,
    Manifest,
    Provider,
    Target,
)
from steelyard.providers.errors import (
    ProviderError,
    ProviderMalformed,
    ProviderTransient,
    ProviderUnclassified,
)
from steelyard.testing.provider_contract import (
    PROVIDER_CONTRACT,
    SHORT_DEADLINE_S,
    ProviderUnderTest,
)
from tests.e2e.providers.bank_kit import LARGE, OVERDRAWN, opened
from tests.e2e.providers.test_t24_contract import under_test

Fetch = Callable[[Provider, Target, float], Awaitable[BalanceReading]]


class Planted:
    """The client with one promise broken."""

    def __init__(self, inner: Provider, fetch: Fetch, **declared: object) -> None:
        self._inner, self._fetch = inner, fetch
        self.manifest: Manifest = replace(inner.manifest, **declared)  # type: ignore[arg-type]

    async def fetch_balances(self, target: Target, *, deadline_s: float) -> BalanceReading:
        return await self._fetch(self._inner, target, deadline_s)


async def honest(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
    return await inner.fetch_balances(target, deadline_s=deadline_s)


def changing(change: Callable[[AccountReading], AccountReading]) -> Fetch:
    """Changes every reading."""

    async def fetch(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
        told = await honest(inner, target, deadline_s)
        return replace(told, readings=tuple(change(one) for one in told.readings))

    return fetch


def one_more(reading: AccountReading) -> AccountReading:
    first, *others = reading.balances
    wrong = replace(first, money=Money(first.money.minor + 1, first.money.currency))
    return replace(reading, balances=(wrong, *others))


def through_float(reading: AccountReading) -> AccountReading:
    if reading.account.number != LARGE.number:
        return reading
    first, *others = reading.balances
    rounded = replace(first, money=Money(float(first.money.minor), first.money.currency))  # type: ignore[arg-type]
    return replace(reading, balances=(rounded, *others))


def without_zone(reading: AccountReading) -> AccountReading:
    moment = datetime.now(UTC).replace(tzinfo=None)
    return replace(reading, balances=tuple(replace(one, as_of=moment) for one in reading.balances))


def a_kind_twice(reading: AccountReading) -> AccountReading:
    return replace(reading, balances=reading.balances * 2)


def nothing_told(reading: AccountReading) -> AccountReading:
    return replace(reading, balances=())


async def loses_an_account(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
    told = await honest(inner, target, deadline_s)
    return replace(told, readings=told.readings[1:])


async def forgets_the_rest(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
    return replace(await honest(inner, target, deadline_s), rest=None)


async def never_ends(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
    return BalanceReading((), rest=target)


async def calls_unknown_malformed(
    inner: Provider, target: Target, deadline_s: float
) -> BalanceReading:
    told = await honest(inner, target, deadline_s)
    wrong = ProviderMalformed(provider="t24", reason="unknown")
    return replace(told, problems=tuple(replace(one, error=wrong) for one in told.problems))


def raising(make: Callable[[ProviderError], BaseException]) -> Fetch:
    """Raises something else instead of the error."""

    async def fetch(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
        try:
            return await honest(inner, target, deadline_s)
        except ProviderError as error:
            raise make(error) from None

    return fetch


async def is_late(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
    try:
        return await honest(inner, target, deadline_s)
    except ProviderTransient:
        await asyncio.sleep(2 if deadline_s == SHORT_DEADLINE_S else 0)
        raise


async def swallows_cancelling(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
    try:
        return await honest(inner, target, deadline_s)
    except asyncio.CancelledError:
        raise ProviderTransient(provider="t24", reason="cancelled") from None


def remembering() -> Fetch:
    """Tells the last balance again when there is no new one."""
    kept: dict[Target, BalanceReading] = {}

    async def fetch(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
        try:
            kept[target] = await honest(inner, target, deadline_s)
        except ProviderError:
            if target not in kept:
                raise
        return kept[target]

    return fetch


def mixing_answers() -> Fetch:
    """Answers calls at once with one of their answers."""
    last: list[BalanceReading] = []

    async def fetch(inner: Provider, target: Target, deadline_s: float) -> BalanceReading:
        told = await honest(inner, target, deadline_s)
        last[:] = [told]
        await asyncio.sleep(0)
        (reading,) = told.readings[:1] or (None,)
        if reading is None or not last[0].readings:
            return told
        other = replace(last[0].readings[0], account=reading.account)
        return replace(told, readings=(other,))

    return fetch


PLANTED: dict[str, Fetch] = {
    "one unit too much": changing(one_more),
    "an amount that was a float": changing(through_float),
    "a time without a zone": changing(without_zone),
    "a kind told twice": changing(a_kind_twice),
    "a reading without a balance": changing(nothing_told),
    "an account lost": loses_an_account,
    "the rest forgotten": forgets_the_rest,
    "no end": never_ends,
    "unknown told as malformed": calls_unknown_malformed,
    "an exception of another kind": raising(lambda error: OSError(str(error))),
    "another type of error": raising(
        lambda error: ProviderUnclassified(provider="t24", reason="any")
    ),
    "an account number in an error": raising(
        lambda error: type(error)(provider="t24", reason=OVERDRAWN.number)
    ),
    "an answer after the deadline": is_late,
    "cancelling swallowed": swallows_cancelling,
    "an old balance told as new": remembering(),
    "answers mixed": mixing_answers(),
}


async def notices(subject: ProviderUnderTest) -> bool:
    """Whether any check fails."""
    for check in PROVIDER_CONTRACT:
        try:
            await check(subject)
        except (AssertionError, OSError, SteelyardError):
            return True
    return False


@pytest.mark.parametrize("name", PLANTED)
async def test_the_suite_notices(name: str) -> None:
    async with opened(in_memory=True) as scene:
        subject = under_test(scene)
        assert await notices(replace(subject, provider=Planted(scene.client, PLANTED[name])))


@pytest.mark.parametrize(
    "declared",
    [
        {"api_version": API_VERSION + 1},
        {"name": "no good name"},
        {"balance_kinds": frozenset({BalanceKind.LEDGER})},
    ],
)
async def test_the_suite_notices_a_wrong_manifest(declared: dict[str, object]) -> None:
    async with opened(in_memory=True) as scene:
        subject = under_test(scene)
        assert await notices(replace(subject, provider=Planted(scene.client, honest, **declared)))


async def test_the_suite_passes_the_same_client_unspoiled() -> None:
    async with opened(in_memory=True) as scene:
        subject = under_test(scene)
        assert not await notices(replace(subject, provider=Planted(scene.client, honest)))
