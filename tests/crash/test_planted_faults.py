"""A checker that no fault can fail proves nothing: each planted fault is found, and without one nothing is."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.conftest import Announce
from tests.crash.killer import Schedule
from tests.crash.laws import Law, told
from tests.crash.planted_faults import SQL_FAULTS, SqlFault, plant
from tests.crash.postgres import PostgresUnderFire
from tests.crash.run import Plan, Report, run_load
from tests.crash.socket_target import SocketTarget

# Connections are cut and processes killed, which no other database of the server feels. Faults in SQL need no kills.
GENTLE = Schedule(api_every_s=1.0, database_every_s=None, connections_every_s=0.2)
CUTS_ONLY = Schedule(api_every_s=None, database_every_s=None, connections_every_s=0.4)
TRIES = 4


@dataclass(frozen=True, slots=True)
class PartFault:
    """A broken part in the processes (`broken_parts.py`), and the laws of which one must be seen broken."""

    name: str
    breaks: frozenset[Law]


PART_FAULTS = (
    PartFault("answers before commit", frozenset({Law.ACKNOWLEDGED, Law.REAL_TIME})),
    PartFault("answers mixed up", frozenset({Law.ACKNOWLEDGED})),
    PartFault("resends under a new key", frozenset({Law.KNOWN})),
    PartFault("error taken for success", frozenset({Law.ACKNOWLEDGED})),
    PartFault("refuses what it wrote", frozenset({Law.REFUSED, Law.REPLAYS})),
    PartFault("stale reads", frozenset({Law.REAL_TIME})),
)
FAULTS: tuple[SqlFault | PartFault, ...] = (*SQL_FAULTS, *PART_FAULTS)


async def run_with(
    fault: SqlFault | PartFault | None, postgres: PostgresUnderFire, folder: Path, *, seed: int
) -> Report:
    """Run a small load on a database of its own, with a fault or without."""
    fresh = await postgres.fresh()
    try:
        if isinstance(fault, SqlFault):
            await plant(fresh.admin_url, fault)
        target = SocketTarget(
            folder, fresh.app_url, fault=fault.name if isinstance(fault, PartFault) else ""
        )
        schedule = CUTS_ONLY if isinstance(fault, SqlFault) else GENTLE
        plan = Plan(seed, 800, clients=24, accounts=4, deadline_s=15, schedule=schedule)
        try:
            await target.start_all()
            return await run_load(target, fresh, postgres, plan)
        finally:
            await target.close()
    finally:
        await postgres.drop(fresh)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_planted_fault_is_found(
    fault: SqlFault | PartFault, postgres: PostgresUnderFire, folder: Path, announce: Announce
) -> None:
    await postgres.wait_ready()
    seen_otherwise = []
    for seed in range(TRIES):
        report = await run_with(fault, postgres, folder, seed=seed)
        seen = fault.breaks & {violation.law for violation in report.violations}
        if seen:
            laws = ", ".join(sorted(law.name for law in seen))
            announce(f"planted fault found: {fault.name} ({laws}; run {seed + 1})")
            return
        seen_otherwise.append(f"{report.summary}\n{told(report.violations, examples=1)}")
    runs = "\n".join(seen_otherwise)
    pytest.fail(f"{fault.name} was not found in {TRIES} runs:\n{runs}")


async def test_nothing_is_found_without_a_fault(
    postgres: PostgresUnderFire, folder: Path, announce: Announce
) -> None:
    await postgres.wait_ready()
    report = await run_with(None, postgres, folder, seed=0)
    announce(f"no fault planted: {report.summary}")
    assert not report.violations, told(report.violations)
