"""Proof and repair as jobs: at night and on the first of the month, or when somebody asks."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from steelyard.access.audit import record_audit
from steelyard.access.model import Principal, system_principal
from steelyard.core.errors import DatabaseUnavailable, InvalidInput
from steelyard.core.ids import UserId, parse_user_id
from steelyard.jobs.errors import LeaseLost
from steelyard.jobs.model import HandledKind, Kind, RunContext
from steelyard.reconcile.model import Progress, Report
from steelyard.reconcile.operations import Reconcile
from steelyard.reconcile.rules import largest_first
from steelyard.reconcile.shapes import tell_discrepancy
from steelyard.runtime.bus import ChangeBus
from steelyard.runtime.cache import BalanceCache

VERIFY_AND_FIX: Final = Kind("balance-verify-sync", delay_s=60.0)
REBUILD: Final = Kind("balance-rebuild-monthly", delay_s=60.0)
SHOWN_MAX: Final = 100
"""Discrepancies listed in a run's result, the largest first; the counts are always of all."""
TELL_EVERY_S: Final = 1.0
PROVED_PERCENT: Final = 80


@dataclass(frozen=True, slots=True)
class ReconcileParts:
    """What repaired balances are told to."""

    bus: ChangeBus
    cache: BalanceCache


def reconcile_kinds(parts: ReconcileParts) -> list[HandledKind]:
    """Return the kinds that prove and repair the balances of a tenant.

    `balance-verify-sync` takes `{"user_id": …}` as arguments to look at one user alone; with any other argument a run
    fails. It completes whatever it finds; its result says what remains.
    """

    async def verify_and_fix(context: RunContext) -> Mapping[str, object]:
        user = _user_of(context)
        async with _telling(context) as move:
            report = await _reconcile_of(parts, context).verify_and_fix(user, progress=move)
        return await _conclude(context, report, "balances.verify_and_fix")

    async def rebuild(context: RunContext) -> Mapping[str, object]:
        _refuse_others(context)
        async with _telling(context) as move:
            report = await _reconcile_of(parts, context).rebuild_all(progress=move)
        return await _conclude(context, report, "balances.rebuild")

    return [HandledKind(VERIFY_AND_FIX, verify_and_fix), HandledKind(REBUILD, rebuild)]


def result_of(report: Report) -> dict[str, object]:
    """Return what a run tells of a proof: users checked, in sync and fixed, and what remains."""
    shown = largest_first(report.errors)[:SHOWN_MAX]
    return {
        "success": True,
        "clean": report.is_clean,
        "checked": report.checked,
        "synced": report.synced,
        "fixed": report.fixed,
        "accounts": report.accounts,
        "touched": len(report.touched),
        "found": len(report.details),
        "remaining": len(report.errors),
        "errors": [tell_discrepancy(one).model_dump() for one in shown],
    }


def _reconcile_of(parts: ReconcileParts, context: RunContext) -> Reconcile:
    return Reconcile(
        database=context.database,
        tenant=context.tenant,
        clock=context.clock,
        cache=parts.cache,
        bus=parts.bus,
        actor=_actor_of(context),
        request_id=f"run:{context.run}",
        check=context.check,
    )


def _actor_of(context: RunContext) -> Principal:
    return system_principal(context.tenant, "jobs")


def _user_of(context: RunContext) -> UserId | None:
    _refuse_others(context, "user_id")
    given = context.arguments.get("user_id")
    if given is None:
        return None
    if not isinstance(given, str):
        raise InvalidInput(field="user_id", problem="a user id is text")
    return parse_user_id(given)


def _refuse_others(context: RunContext, *known: str) -> None:
    """Refuse arguments that nobody reads: who misspells a user's would have the whole tenant repaired."""
    others = sorted(context.arguments.keys() - set(known))
    if others:
        raise InvalidInput(field="arguments", problem=f"there is no {others[0][:40]!r}")


async def _conclude(context: RunContext, report: Report, action: str) -> Mapping[str, object]:
    """End the run and record it, in one unit of work."""
    result = result_of(report)
    counts = {name: value for name, value in result.items() if isinstance(value, int)}
    async with context.database.unit_of_work(context.tenant) as uow:
        await context.complete(uow, result)
        await record_audit(
            uow,
            _actor_of(context),
            action=action,
            target=f"run:{context.run}",
            outcome="done" if report.is_clean else "discrepancies_remain",
            now=context.clock.now(),
            request_id=f"run:{context.run}",
            details=counts,
        )
    return result


@asynccontextmanager
async def _telling(context: RunContext) -> AsyncIterator[Progress]:
    """Show how far the work is, once a second; whoever has lost the job is told by its next repair."""
    percent = told = 0

    def move(step: str, done: int, total: int) -> None:
        nonlocal percent
        share = min(done / max(total, 1), 1.0)
        begin, end = (PROVED_PERCENT, 99) if step == "fix" else (0, PROVED_PERCENT)
        if step.startswith("rebuild"):
            end = 99
        percent = max(percent, int(begin + share * (end - begin)))

    async def tell() -> None:
        nonlocal told
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            if percent > told:
                with suppress(DatabaseUnavailable, LeaseLost):
                    await context.progress(percent)
                told = percent

    task = asyncio.create_task(tell(), name="reconcile.tell")
    try:
        yield move
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
