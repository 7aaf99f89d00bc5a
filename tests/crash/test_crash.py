"""Nothing acknowledged is lost, nothing is done twice, nothing refused is applied: under kill -9 of everything."""

import secrets
import tempfile
from pathlib import Path

import pytest

from tests.crash.conftest import Announce
from tests.crash.http_target import HttpTarget
from tests.crash.killer import Schedule
from tests.crash.laws import told
from tests.crash.postgres import PostgresUnderFire
from tests.crash.run import Plan, run_load, verify
from tests.crash.socket_target import SocketTarget
from tests.crash.target import Target
from tests.world import FreshDatabase

SHORT = Plan(
    seed=1,
    operations=3_000,
    deadline_s=90,
    schedule=Schedule(api_every_s=1.5, database_every_s=3.0),
    least_kills=3,
)


async def prove(
    target: Target, postgres: PostgresUnderFire, place: FreshDatabase, plan: Plan
) -> str:
    """Run a plan against a target and return its line; fails on any violation, and when too little was killed."""
    try:
        await target.start_all()
        report = await run_load(target, place, postgres, plan)
    finally:
        await target.close()
    report.violations.extend(await verify(place))
    if report.violations:
        kept = Path(tempfile.gettempdir()) / f"steelyard-crash-{plan.seed}.jsonl"
        report.history.write(kept)
        pytest.fail(f"{report.summary}\n{told(report.violations)}\nhistory: {kept}")
    assert len(report.history.invocations) >= plan.operations, report.summary
    assert report.api_kills >= plan.least_kills, report.summary
    assert sum(report.postgres_kills.values()) + report.cuts >= plan.least_kills, report.summary
    for child in target.processes:
        assert "Traceback" not in child.log.read_text(errors="replace"), child.log.read_text()[
            -3000:
        ]
    return report.summary


@pytest.mark.timeout(200)
async def test_nothing_is_lost_or_done_twice_while_api_and_database_are_killed(
    postgres: PostgresUnderFire, place: FreshDatabase, folder: Path, announce: Announce
) -> None:
    announce(await prove(HttpTarget(folder, place.app_url), postgres, place, SHORT))


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_hundred_thousand_operations_over_http_survive_every_kill(
    postgres: PostgresUnderFire, place: FreshDatabase, folder: Path, announce: Announce
) -> None:
    plan = Plan(
        seed=secrets.randbelow(1_000_000),
        operations=100_000,
        clients=64,
        accounts=40,
        deadline_s=3300,
        schedule=Schedule(api_every_s=5.0, database_every_s=8.0),
        least_kills=20,
    )
    announce(await prove(HttpTarget(folder, place.app_url), postgres, place, plan))


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_hundred_thousand_operations_on_the_ledger_alone_survive_every_kill(
    postgres: PostgresUnderFire, place: FreshDatabase, folder: Path, announce: Announce
) -> None:
    plan = Plan(
        seed=secrets.randbelow(1_000_000),
        operations=100_000,
        clients=64,
        accounts=40,
        deadline_s=3300,
        schedule=Schedule(api_every_s=2.0, database_every_s=5.0),
        least_kills=20,
    )
    announce(await prove(SocketTarget(folder, place.app_url), postgres, place, plan))
