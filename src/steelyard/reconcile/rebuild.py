"""Rebuild: recompute every account of a tenant from its changes."""

from steelyard.core.ids import AccountId
from steelyard.reconcile.fix import FIX_AT_ONCE, Repairs, fix_accounts, forget_cached
from steelyard.reconcile.model import Progress, Report, no_progress
from steelyard.reconcile.store import examine
from steelyard.reconcile.verify import Scope, check_books, examine_accounts


async def rebuild_all(
    scope: Scope,
    repairs: Repairs,
    *,
    after: AccountId | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Recompute balances, totals, heads and holds of all accounts, whether or not they look right.

    Works through the accounts in id order, a few at a time in a unit of work of their own. It may be
    stopped anywhere and begun again, from the start or after the last account `progress` named: a
    rebuilt account is left as it is. Accounts whose history is broken are suspended, never summed.
    """
    report = Report(tenant=scope.tenant)
    async with scope.database.unit_of_work(scope.tenant) as uow:
        report.checked, report.accounts = await examine.count_users(uow)
    last, done = int(after or 0), 0
    while True:
        async with scope.database.unit_of_work(scope.tenant) as uow:
            page = await examine.list_account_ids(uow, after=last, limit=FIX_AT_ONCE)
        if not page:
            break
        report.touched += await fix_accounts(scope, repairs, page, witnesses=False)
        await forget_cached(scope, page)
        last, done = page[-1], done + len(page)
        progress(f"rebuild, up to account {last}", done, report.accounts)
    async with scope.database.unit_of_work(scope.tenant) as uow:
        doubtful = await examine.list_quarantined(uow)
    report.errors = await examine_accounts(scope, doubtful) + await check_books(scope)
    report.details = list(report.errors)
    broken = {one.user for one in report.errors if one.user is not None}
    report.fixed = len({one.user for one in report.touched if one.user is not None} - broken)
    report.synced = report.checked - report.fixed - len(broken)
    return report
