"""What is known at a day's end, and the SQL that asks our books for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.reconcile.model import Report
from steelyard.runtime.database import Database
from steelyard.sync.model import SyncResult
from steelyard.testing.simulated_day.plan import DayPlan
from steelyard.testing.simulated_day.town import Town
from steelyard.testing.simulated_day.trace import Trace

_ACCOUNTS = """
    SELECT m.number, m.user_id, a.id, a.posted, a.seq, m.read_at FROM steelyard.mirrored_account m
      JOIN steelyard.account a ON a.tenant_id = m.tenant_id AND a.id = m.account_id
     WHERE m.tenant_id = $1 ORDER BY a.id
"""
_CHANGES = """
    SELECT account_id, seq, kind, amount, balance_after FROM steelyard.change
     WHERE tenant_id = $1 ORDER BY account_id, seq
"""
_TARGETS = """
    SELECT subject, run_id, again_run_id, lease_until, last_result, last_success_at FROM steelyard.sync_target
     WHERE tenant_id = $1 ORDER BY subject
"""
_RUNS = """
    SELECT id, kind, subject, state, attempts, error ->> 'code' AS code, result ->> 'fixed' AS fixed,
           result ->> 'remaining' AS remaining, created_at, started_at, finished_at
      FROM steelyard.run WHERE tenant_id = $1 ORDER BY id
"""
_TICKS = """
    SELECT schedule, planned_for, run_id FROM steelyard.schedule_tick WHERE tenant_id = $1 ORDER BY schedule, planned_for
"""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SeenLogin:
    """A login and what it was answered; `error` instead of a result where it was refused."""

    user: UserId
    server: str
    begin_s: float
    end_s: float
    result: SyncResult | None
    error: str | None = None
    is_cut_off: bool = False
    """Its server was killed or stopped meanwhile: nobody could answer it."""


@dataclass(frozen=True, slots=True)
class Books:
    """What our database says."""

    accounts: Sequence[Row]
    changes: Sequence[Row]
    targets: Sequence[Row]
    runs: Sequence[Row]
    ticks: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the promises are judged by."""

    plan: DayPlan
    beginning: datetime
    town: Town
    trace: Trace
    logins: Sequence[SeenLogin]
    accidents: Sequence[tuple[float, float]]
    """From when until when some server was away or catching up, in virtual seconds."""
    books: Books
    report: Report
    end: datetime
    """When the last server ended."""
    deadlocks: int
    statements: int


async def read_books(database: Database) -> Books:
    """Read what our database says, when nobody works any more."""

    async def read(sql: str) -> list[Row]:
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            return [dict(row) for row in await uow.fetch(sql, DEFAULT_TENANT)]

    return Books(
        accounts=await read(_ACCOUNTS),
        changes=await read(_CHANGES),
        targets=await read(_TARGETS),
        runs=await read(_RUNS),
        ticks=await read(_TICKS),
    )
