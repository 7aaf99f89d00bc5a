"""Fix: make stored numbers what the changes say, wherever the changes prove themselves.

Only accounts whose history holds are made anew. An altered change is brought back if the result has
exactly its stored hash. Any other broken history suspends the account (`chain_broken`): it is reported
until a person decides, and never summed into a balance.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from steelyard.access.model import Principal
from steelyard.core.clock import Clock
from steelyard.core.ids import AccountId, UserId
from steelyard.reconcile.chunks import chunks_of
from steelyard.reconcile.model import (
    Discrepancy,
    Fault,
    Fixed,
    FixOutcome,
    Progress,
    Report,
    no_progress,
)
from steelyard.reconcile.store import repair
from steelyard.reconcile.verify import (
    Depth,
    Scope,
    check_books,
    check_cache,
    examine_accounts,
    verify_tenant,
    verify_user,
)
from steelyard.runtime.bus import BalanceEvent, ChangeBus
from steelyard.runtime.database import UnitOfWork

FIX_AT_ONCE = 200
"""Accounts whose rows are locked together."""

Check = Callable[[UnitOfWork], Awaitable[None]]
"""Raises where whoever repairs may not write any more; then nothing of that unit of work is."""


@dataclass(frozen=True, slots=True)
class Repairs:
    """By whom and when repairs are made, and who is told of them."""

    actor: Principal
    clock: Clock
    bus: ChangeBus | None = None
    request_id: str | None = None
    check: Check | None = None
    """Asked first in each unit of work that repairs."""


async def verify_and_fix(
    scope: Scope,
    repairs: Repairs,
    *,
    user: UserId | None = None,
    depth: Depth = Depth.CHAIN,
    progress: Progress = no_progress,
) -> Report:
    """Prove a tenant or one user, repair what can be proved, and prove the repaired accounts again.

    Returns:
        `details`: all that was found; `errors`: what remains; `fixed`: users nothing remains of.
    """
    if user is None:
        report = await verify_tenant(scope, depth=depth, progress=progress)
    else:
        report = await verify_user(scope, user)
    if not report.details:
        return report
    await fix_found(scope, repairs, report, progress=progress)
    return report


async def fix_found(
    scope: Scope, repairs: Repairs, report: Report, *, progress: Progress = no_progress
) -> None:
    """Repair what a report found, and bring the report up to date."""
    accounts = sorted({one.account for one in report.details if one.account is not None})
    await forget_cached(scope, accounts)
    for chunk in chunks_of(accounts, FIX_AT_ONCE):
        report.touched += await fix_accounts(scope, repairs, chunk, witnesses=True)
        progress("fix", len(report.touched), len(accounts))
    remaining = await examine_accounts(scope, accounts)
    remaining += await check_cache(scope, accounts=accounts)
    if any(one.fault is Fault.BOOK for one in report.details):
        remaining += await check_books(scope)
    report.errors = remaining
    report.fixed = len(_whose(report.details) - _whose(remaining))


async def fix_accounts(
    scope: Scope, repairs: Repairs, accounts: Sequence[AccountId], *, witnesses: bool
) -> list[Fixed]:
    """Repair or quarantine these accounts in one unit of work, then tell cache and bus.

    Locks the accounts' rows until it is committed; sound accounts are not in the answer.
    """
    now = repairs.clock.now()
    async with scope.database.unit_of_work(scope.tenant) as uow:
        if repairs.check is not None:
            await repairs.check(uow)
        touched = await repair.fix_accounts(
            uow,
            accounts,
            witnesses=witnesses,
            actor=repairs.actor,
            now=now,
            request_id=repairs.request_id,
        )
    await forget_cached(scope, [one.account for one in touched])
    if repairs.bus is not None:
        for one in touched:
            if one.outcome is FixOutcome.FIXED:
                repairs.bus.publish(_event_of(scope, one, now))
    return touched


async def forget_cached(scope: Scope, accounts: Sequence[AccountId]) -> None:
    """Drop cached balances; the next read asks the database."""
    if scope.cache is not None and accounts:
        await scope.cache.forget(scope.tenant, accounts)


def _event_of(scope: Scope, fixed: Fixed, now: datetime) -> BalanceEvent:
    before = fixed.posted_before - fixed.held_before
    return BalanceEvent(
        event="balance_updated",
        tenant=scope.tenant,
        account=fixed.account,
        user=fixed.user,
        currency=fixed.currency,
        seq=fixed.seq,
        kind="adjustment",
        amount=fixed.posted - fixed.held - before,
        posted=fixed.posted,
        held=fixed.held,
        at=now,
        transaction=None,
    )


def _whose(discrepancies: Iterable[Discrepancy]) -> set[UserId]:
    return {one.user for one in discrepancies if one.user is not None}
