"""Incremental verify: prove what is new since each account's checkpoint; cost is the new changes alone.

An account is looked at when it is not as its checkpoint has it (`seq`, numbers, head): never by time or
by a global number, which late commits would slip past. What was altered before a checkpoint is found by
the full proof; the change a checkpoint names is compared each time.
"""

from steelyard.core.clock import Clock
from steelyard.reconcile.chunks import chunks_of
from steelyard.reconcile.model import Discrepancy, Progress, Report, no_progress
from steelyard.reconcile.store import examine, repair
from steelyard.reconcile.store.snapshot import open_snapshot
from steelyard.reconcile.verify import Scope, check_books, examine_accounts, report_of

ADVANCE_AT_ONCE = 500
"""Accounts proved, and moved on, in one unit of work."""


async def verify_incremental(
    scope: Scope, clock: Clock, *, progress: Progress = no_progress
) -> Report:
    """Prove the accounts that moved, and move their checkpoints where all is equal."""
    async with open_snapshot(scope.database, scope.tenant) as uow:
        dirty = await examine.list_dirty_accounts(uow)
    found: list[Discrepancy] = []
    done = 0
    for chunk in chunks_of(dirty, ADVANCE_AT_ONCE):
        async with scope.database.unit_of_work(scope.tenant) as uow:
            unproved = await repair.advance_checkpoints(uow, chunk, now=clock.now())
        if unproved:
            found += await examine_accounts(scope, unproved)
        done += len(chunk)
        progress("changed accounts", done, len(dirty))
    found += await check_books(scope)
    return await report_of(scope, found)
