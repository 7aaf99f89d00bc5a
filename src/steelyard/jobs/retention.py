"""Cleaning up: runs that ended long ago, and what the engine keeps of jobs that are done."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from steelyard.access.audit import record_audit
from steelyard.access.model import system_principal
from steelyard.core.clock import Clock
from steelyard.core.ids import TenantId
from steelyard.jobs.model import HandledKind, Kind, RunContext, State
from steelyard.jobs.port import JobEngine
from steelyard.jobs.store import runs
from steelyard.runtime.database import Database, UnitOfWork

CLEAN_UP: Final = Kind("clean-up", timeout_s=3_600.0)
AT_ONCE: Final = 1_000
"""Runs deleted in one unit of work: some hundredths of a second, on rows nobody waits for."""
TICKETS_KEPT: Final = timedelta(days=7)
TICKETS_KEPT_NEWEST: Final = 1_000
ENDED: Final = tuple(state for state in State if state.is_final)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Retention:
    """Deletes runs that ended longer ago than `kept`; dead letters go with their runs."""

    database: Database
    clock: Clock
    kept: timedelta

    async def count_old(self, tenant: TenantId) -> dict[str, int]:
        """Return how many runs `clean_up` would delete now, by kind; change nothing.

        Raises:
            DatabaseUnavailable: The database did not answer.
        """
        before, found = self.clock.now() - self.kept, Counter[str]()
        async with self.database.unit_of_work(tenant) as uow:
            for kind in await runs.list_kinds(uow):
                for state in ENDED:
                    found[kind] += await runs.count_old(uow, kind, state, before=before)
        return {kind: count for kind, count in found.items() if count}

    async def clean_up(
        self, tenant: TenantId, *, context: RunContext | None = None
    ) -> dict[str, int]:
        """Delete what is old, some at a time in a unit of work of their own; return how many, by kind.

        Rows that somebody works on are passed by. It may be stopped anywhere and begun again.

        Args:
            tenant: Whose runs.
            context: The run that asks; each unit of work asks whether it still may.
        Raises:
            LeaseLost: Another worker does it by now.
            DatabaseUnavailable: The database did not answer; what was deleted stays deleted.
        """
        before, deleted = self.clock.now() - self.kept, Counter[str]()
        async with self.database.unit_of_work(tenant) as uow:
            kinds = await runs.list_kinds(uow)
        for kind in kinds:
            for state in ENDED:
                count = AT_ONCE
                while count == AT_ONCE:
                    async with self.database.unit_of_work(tenant) as uow:
                        await _check(uow, context)
                        count = await runs.delete_old(
                            uow, kind, state, before=before, limit=AT_ONCE
                        )
                    deleted[kind] += count
        return {kind: count for kind, count in deleted.items() if count}


def clean_up_kind(retention: Retention, engine: JobEngine) -> HandledKind:
    """Return the kind `clean-up`: old runs of its tenant, and what the engine keeps of jobs that are done."""

    async def clean_up(context: RunContext) -> Mapping[str, object]:
        deleted = await retention.clean_up(context.tenant, context=context)
        await context.progress(90)
        tickets = await engine.delete_old(older_than=TICKETS_KEPT, newest_kept=TICKETS_KEPT_NEWEST)
        result = {"success": True, "runs_deleted": sum(deleted.values()), "by_kind": deleted}
        async with context.database.unit_of_work(context.tenant) as uow:
            await context.complete(uow, result)
            await record_audit(
                uow,
                system_principal(context.tenant, "clean-up"),
                action="runs.clean_up",
                target=f"run:{context.run}",
                now=context.clock.now(),
                details={"runs_deleted": result["runs_deleted"], "by_kind": deleted},
            )
        _log.info("jobs.cleaned_up", runs=result["runs_deleted"], tickets=tickets)
        return result

    return HandledKind(CLEAN_UP, clean_up)


async def _check(uow: UnitOfWork, context: RunContext | None) -> None:
    if context is not None:
        await context.check(uow)
