"""Verify: prove every stored number of a tenant from its changes, and change nothing.

Charges go on meanwhile: each pass reads one moment of its own, and what a pass suspects is examined
exactly, in one statement, before it is reported.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.reconcile.chunks import chunks_of
from steelyard.reconcile.model import Discrepancy, Fault, Progress, Report, no_progress
from steelyard.reconcile.rules import explain, is_broken
from steelyard.reconcile.store import examine, screen
from steelyard.reconcile.store.snapshot import open_snapshot
from steelyard.runtime.cache import BalanceCache
from steelyard.runtime.database import Database, UnitOfWork

EXAMINE_AT_ONCE = 2_000
"""Accounts examined in one statement."""


class Depth(StrEnum):
    """How much a proof computes anew."""

    ARITHMETIC = "arithmetic"
    """Numbers, steps, totals, holds, requests, transfers, books; hashes of heads and checkpoints compared."""
    CHAIN = "chain"
    """All of that, and every hash computed."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a proof looks: a tenant, beside it the cache to compare with, if there is one."""

    database: Database
    tenant: TenantId
    cache: BalanceCache | None = None


Screen = Callable[[UnitOfWork], Awaitable[set[AccountId]]]


async def verify_tenant(
    scope: Scope, *, depth: Depth = Depth.CHAIN, progress: Progress = no_progress
) -> Report:
    """Prove all accounts and books of a tenant.

    Raises:
        DatabaseUnavailable: The database did not answer.
    """
    screens: list[tuple[str, Screen]] = [
        ("requests", screen.screen_requests),
        ("checkpoints", screen.screen_checkpoints),
    ]
    if depth is Depth.CHAIN:
        screens.append(("balances and chain", screen.screen_chain))
    else:
        screens += [("balances", screen.screen_arithmetic), ("heads", screen.screen_heads)]
    suspects: set[AccountId] = set()
    for done, (name, run) in enumerate(screens):
        progress(name, done, len(screens) + 2)
        async with open_snapshot(scope.database, scope.tenant) as uow:
            suspects |= await run(uow)
    progress("accounts", len(screens), len(screens) + 2)
    found = await examine_accounts(scope, sorted(suspects))
    found += await check_cache(scope, progress=no_progress)
    found += await check_books(scope)
    progress("done", len(screens) + 2, len(screens) + 2)
    return await report_of(scope, found)


async def verify_user(scope: Scope, user: UserId) -> Report:
    """Prove the accounts of one user, exactly and at every depth. Books are not looked at."""
    async with scope.database.unit_of_work(scope.tenant) as uow:
        accounts = await examine.list_account_ids(uow, user=user)
    found = await examine_accounts(scope, accounts)
    found += await check_cache(scope, accounts=accounts, progress=no_progress)
    return build_report(scope.tenant, found, users=int(bool(accounts)), accounts=len(accounts))


async def examine_accounts(
    scope: Scope, accounts: Sequence[AccountId], *, witnesses: bool = True
) -> list[Discrepancy]:
    """Return every discrepancy of these accounts, from exact evidence."""
    found: list[Discrepancy] = []
    for chunk in chunks_of(accounts, EXAMINE_AT_ONCE):
        async with open_snapshot(scope.database, scope.tenant) as uow:
            seen = await examine.load_evidence(uow, chunk, witnesses=witnesses)
            known = {one.account for one in seen}
            others = {other for one in seen for other in one.transfer_with} - known
            beside = (
                await examine.load_evidence(uow, sorted(others), witnesses=True) if others else []
            )
            broken = {one.account for one in (*seen, *beside) if is_broken(one)}
        for evidence in seen:
            found += explain(scope.tenant, evidence, broken=broken)
    return found


async def check_books(scope: Scope) -> list[Discrepancy]:
    """Return the books that do not sum to zero."""
    async with open_snapshot(scope.database, scope.tenant) as uow:
        unbalanced = await examine.list_unbalanced_books(uow)
    return [
        Discrepancy(
            fault=Fault.BOOK,
            tenant=scope.tenant,
            account=None,
            user=None,
            currency=currency,
            digits=digits,
            sentence=f"the {currency} book does not sum to zero",
            stored=total,
            actual=0,
        )
        for currency, digits, total in unbalanced
    ]


async def check_cache(
    scope: Scope,
    *,
    accounts: Sequence[AccountId] | None = None,
    progress: Progress = no_progress,
) -> list[Discrepancy]:
    """Return the accounts whose cached balance is not the one their changes had at its `seq`.

    The cache is read first: it is written after the commit, so it can only be older than the database.
    """
    if scope.cache is None:
        return []
    found: list[Discrepancy] = []
    after = 0
    while True:
        if accounts is not None:
            page = accounts
        else:
            async with scope.database.unit_of_work(scope.tenant) as uow:
                page = await examine.list_account_ids(uow, after=after)
        found += await _compare_cached(scope, scope.cache, page)
        if not page or accounts is not None:
            return found
        after = page[-1]
        progress("cache", after, after)


async def _compare_cached(
    scope: Scope, cache: BalanceCache, accounts: Sequence[AccountId]
) -> list[Discrepancy]:
    held = await cache.get_many(scope.tenant, accounts)
    places = [(one, kept.seq) for one, kept in held.items() if kept.seq > 0]
    if not places:
        return []
    async with scope.database.unit_of_work(scope.tenant) as uow:
        rows = await examine.list_balances_at(uow, places)
    return [
        Discrepancy(
            fault=Fault.CACHE,
            tenant=scope.tenant,
            account=account,
            user=row["user_id"],
            currency=row["currency"],
            digits=row["digits"],
            sentence=f"the cached balance is not the one change {held[account].seq} left",
            stored=held[account].available,
            actual=row["available"],
            seq=held[account].seq,
        )
        for account, row in rows.items()
        if row["available"] != held[account].available
    ]


async def report_of(scope: Scope, found: Collection[Discrepancy]) -> Report:
    """Return the report of a whole tenant's proof."""
    async with scope.database.unit_of_work(scope.tenant) as uow:
        users, accounts = await examine.count_users(uow)
    return build_report(scope.tenant, found, users=users, accounts=accounts)


def build_report(
    tenant: TenantId, found: Collection[Discrepancy], *, users: int, accounts: int
) -> Report:
    """Return the report of a proof that repaired nothing: every discrepancy remains."""
    off = {one.user for one in found if one.user is not None}
    return Report(
        tenant=tenant,
        checked=users,
        synced=users - len(off),
        accounts=accounts,
        errors=list(found),
        details=list(found),
    )
