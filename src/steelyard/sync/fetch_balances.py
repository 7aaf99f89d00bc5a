"""One attempt at one target: as many requests as were granted, outside any unit of work, within one deadline."""

import asyncio
from collections.abc import Sequence

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
)
NOT_SHOWN = Failure(
    code="balance_not_shown",
    message="none of the balances reported is one that may be shown; the balance is unchanged",
    may_retry=False,
)


async def fetch_balances(
    provider: Provider, lease: Lease, accounts: Sequence[MirroredAccount], *, deadline_s: float
) -> Fetched:
    """Ask the source for a user's balances. Writes nothing; every failure of the source is in the answer."""
    told: list[ShownBalance] = []
    problems: list[Failure] = []
    requests = 0
    target: Target | None = Target(tuple(TargetAccount(a.number, a.currency) for a in accounts))
    by_number = {account.number: account for account in accounts}
    try:
        async with asyncio.timeout(deadline_s) as whole:
            while target is not None:
                if requests == lease.cost:
                    problems.append(MORE_REQUESTS)
                    requests += len(target.accounts)  # what the next lease should be granted
                    break
                requests += 1
                left_s = (whole.when() or 0.0) - asyncio.get_running_loop().time()
                answer = await provider.fetch_balances(target, deadline_s=max(0.001, left_s))
                problems += [failure_of(problem.error) for problem in answer.problems]
                for reading in answer.readings:
                    shown = _shown(by_number[reading.account.number], reading)
                    if shown is None:
                        problems.append(NOT_SHOWN)
                    else:
                        told.append(shown)
                target = answer.rest
    except ProviderError as error:
        return Fetched(lease, tuple(told), tuple(problems), failure_of(error), requests)
    except TimeoutError:
        late = Failure(
            code="provider_transient",
            message=f"{lease.provider} did not answer within {deadline_s:.3g} s; no balance was changed",
            may_retry=True,
            counts_as_outage=True,
        )
        return Fetched(lease, tuple(told), tuple(problems), late, requests)
    return Fetched(lease, tuple(told), tuple(problems), None, requests)


def _shown(account: MirroredAccount, reading: AccountReading) -> ShownBalance | None:
    """Return the balance to show, of the account's own currency, beside all that were reported."""
    own = [one for one in reading.balances if one.money.currency == account.currency]
    shown = next((one for kind in SHOWN_KINDS for one in own if one.kind is kind), None)
    if shown is None or abs(shown.money.minor) > LARGEST_MINOR:
        return None
    kinds = {one.kind.value: one.money.minor for one in own}
    return ShownBalance(account.account, shown.money.minor, shown.as_of, kinds)
