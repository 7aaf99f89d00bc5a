"""One attempt at one target: request by request as permitted, outside any unit of work, within one deadline."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from steelyard.core.money import LARGEST_MINOR
from steelyard.mirror.model import MirroredAccount, ShownBalance
from steelyard.providers.contract import AccountReading, Provider, Target, TargetAccount
from steelyard.providers.errors import ProviderError
from steelyard.sync.model import Failure, Fetched, Lease
from steelyard.sync.rules import SHOWN_KINDS, failure_of

MORE_REQUESTS = Failure(
    code="more_requests_needed",
    message="the source has more to tell than the requests granted; the rest follows",
    may_retry=True,
    is_unfinished=True,
)
NOT_SHOWN = Failure(
    code="balance_not_shown",
    message="none of the balances reported is one that may be shown; the balance is unchanged",
    may_retry=False,
)


@dataclass(frozen=True, slots=True)
class Asking:
    """How one attempt asks.

    Args:
        deadline_s: For all its requests together.
        request_s: For one request, at most.
        permit: Waits until one more request may be sent; False: none may, the attempt ends.
    """

    deadline_s: float
    request_s: float
    permit: Callable[[], Awaitable[bool]]


@dataclass(slots=True)
class _Attempt:
    told: list[ShownBalance] = field(default_factory=list)
    problems: list[Failure] = field(default_factory=list)
    requests: int = 0
    is_asking: bool = False
    """A request is on its way."""


async def fetch_balances(
    provider: Provider, lease: Lease, accounts: Sequence[MirroredAccount], asking: Asking
) -> Fetched:
    """Ask the source for a user's balances. Writes nothing; every failure of the source is in the answer.

    What the same run has read already is not asked for again. The first request is granted with the lease.
    """
    attempt, failure = _Attempt(), None
    left = [account for account in in_order(accounts) if account.account not in lease.read]
    try:
        async with asyncio.timeout(asking.deadline_s) as whole:
            await _ask(provider, left, asking, attempt, ends_at=whole.when() or 0.0)
    except ProviderError as error:
        failure = failure_of(error)
    except TimeoutError:
        if attempt.is_asking:
            failure = Failure(
                code="provider_transient",
                message=f"{lease.provider} did not answer in time; what it had not told is unchanged",
                may_retry=True,
                counts_as_outage=not attempt.told,
            )
        else:
            attempt.problems.append(MORE_REQUESTS)
    return Fetched(lease, tuple(attempt.told), tuple(attempt.problems), failure, attempt.requests)


def in_order(accounts: Sequence[MirroredAccount]) -> list[MirroredAccount]:
    """Return the primary account, then those read longest ago; those that never were come last.

    So a source that grants too few requests for all of them is asked for each in turn, and one account that can
    not be read stands in nobody's way.
    """
    first, others = accounts[:1], accounts[1:]
    known = sorted((a for a in others if a.read_at), key=lambda a: (a.read_at, a.account))
    return [*first, *known, *(a for a in others if a.read_at is None)]


async def _ask(
    provider: Provider,
    accounts: Sequence[MirroredAccount],
    asking: Asking,
    attempt: _Attempt,
    *,
    ends_at: float,
) -> None:
    by_number = {account.number: account for account in accounts}
    target: Target | None = Target(tuple(TargetAccount(a.number, a.currency) for a in accounts))
    if not accounts:
        return
    while target is not None:
        if attempt.requests and not await asking.permit():
            attempt.problems.append(MORE_REQUESTS)
            return
        attempt.requests += 1
        attempt.is_asking = True
        left_s = ends_at - asyncio.get_running_loop().time()
        deadline_s = max(0.001, min(left_s, asking.request_s))
        async with asyncio.timeout(deadline_s):
            answer = await provider.fetch_balances(target, deadline_s=deadline_s)
        attempt.is_asking = False
        attempt.problems += [failure_of(problem.error) for problem in answer.problems]
        for reading in answer.readings:
            shown = _shown(by_number[reading.account.number], reading)
            if isinstance(shown, ShownBalance):
                attempt.told.append(shown)
            else:
                attempt.problems.append(shown)
        target = answer.rest


def _shown(account: MirroredAccount, reading: AccountReading) -> ShownBalance | Failure:
    """Return the balance to show, of the account's own currency, beside all that were reported; or why there is none."""
    own = [one for one in reading.balances if one.money.currency == account.currency]
    if reading.balances and not own:
        return other_currency(account, reading)
    shown = next((one for kind in SHOWN_KINDS for one in own if one.kind is kind), None)
    if shown is None or abs(shown.money.minor) > LARGEST_MINOR:
        return NOT_SHOWN
    kinds = {one.kind.value: one.money.minor for one in own}
    return ShownBalance(account.account, shown.money.minor, shown.as_of, kinds)


def other_currency(account: MirroredAccount, reading: AccountReading) -> Failure:
    """Say that an account is kept in another currency there than here, and what to do."""
    theirs = sorted({one.money.currency.code for one in reading.balances})
    return Failure(
        code="balance_other_currency",
        message=(
            f"the source tells account {account.account} in {', '.join(theirs)}, it is mirrored in "
            f"{account.currency.code}; its balance is unchanged. If the source is right, mirror it again: "
            f"`steelyard sync add {account.user} NUMBER --currency {theirs[0]}` closes this one and opens another"
        ),
        may_retry=False,
    )
