"""A day of a bank's users in virtual time: what has to be true at its end, and that the day could tell if it were not."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest

from steelyard.testing.simulated_day.evidence import Evidence
from steelyard.testing.simulated_day.plan import DayPlan
from steelyard.testing.simulated_day.promises import PROMISES, judge
from steelyard.testing.simulated_day.run_day import Staging, run_day
from tests.crash.planted_faults import SqlFault, plant
from tests.simulation.planted import PLANTED, ROUGH, Planted
from tests.world import FreshDatabase, drop_database, make_fresh

SHORT = replace(ROUGH, hours=0.75)
TRIES = 5


@contextmanager
def database_of_a_day(admin_url: str, template: str) -> Iterator[FreshDatabase]:
    """A database of one day's own."""
    fresh = asyncio.run(make_fresh(admin_url, template))
    try:
        yield fresh
    finally:
        asyncio.run(drop_database(admin_url, fresh.name))


def live(admin_url: str, template: str, plan: DayPlan) -> Evidence:
    """Run a day on a database of its own."""
    with database_of_a_day(admin_url, template) as fresh:
        return run_day(plan, Staging(fresh.app_url))


def broken(seen: Evidence) -> dict[str, list[str]]:
    """The promises that were broken, with the first few reasons."""
    return {name: breaches[:5] for name, breaches in judge(seen).items() if breaches}


def test_an_hour_in_which_everything_goes_wrong_ends_as_promised(
    admin_url: str, template: str
) -> None:
    seen = live(admin_url, template, SHORT)
    assert broken(seen) == {}
    counts = seen.trace.counts
    assert counts["killed"] >= 3
    assert counts["stopped"] == counts["resumed"] >= 3
    assert len(seen.town.bank.counts.faults) >= 5
    assert counts["finish"] >= 36 * 7
    assert seen.books.changes


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trace_to_the_byte(admin_url: str, template: str) -> None:
    plan = replace(SHORT, users=15, hours=0.15, interval_s=150.0, logins=30.0)
    first, second = live(admin_url, template, plan), live(admin_url, template, plan)
    assert first.trace.digest == second.trace.digest
    assert first.trace.lines > 100


@pytest.mark.slow
def test_only_the_seed_changes_the_trace_and_neither_process_nor_hash_seed(
    admin_url: str, template: str
) -> None:
    plan = replace(SHORT, users=20)
    told = {live(admin_url, template, replace(plan, seed=8)).trace.digest}
    for hash_seed in ("0", "1", "4711"):
        with database_of_a_day(admin_url, template) as fresh:
            program = [sys.executable, "-m", "tests.simulation.print_digest"]
            order = json.dumps({"url": fresh.app_url, "plan": asdict(plan)})
            done = subprocess.run(
                program,
                input=order,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            )
            told.add(done.stdout)
    assert len(told) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_other_days_end_as_promised(admin_url: str, template: str, seed: int) -> None:
    assert broken(live(admin_url, template, replace(ROUGH, users=100, hours=3.0, seed=seed))) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_day_of_500_users_ends_as_promised(admin_url: str, template: str) -> None:
    seen = live(admin_url, template, DayPlan())
    assert broken(seen) == {}
    assert seen.trace.counts["finish"] >= 450 * 24 * 60 / 5 * 0.8


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_planted_fault_is_seen(admin_url: str, template: str, planted: Planted) -> None:
    seen: set[str] = set()
    for seed in range(planted.plan.seed, planted.plan.seed + TRIES):
        seen |= broken(live_with(planted, seed, admin_url, template)).keys()
        if planted.breaks & seen:
            return
    pytest.fail(f"{planted.what}, and of what was promised only {seen} was seen broken")


def live_with(planted: Planted, seed: int, admin_url: str, template: str) -> Evidence:
    """Run a day with a fault in it."""
    with database_of_a_day(admin_url, template) as fresh:
        fault = SqlFault(planted.name, planted.what, planted.edits, frozenset())
        asyncio.run(plant(fresh.admin_url, fault))
        staging = Staging(fresh.app_url, rewrite=planted.rewritten, alter=planted.alter)
        seen = run_day(replace(planted.plan, seed=seed), staging)
    assert planted.rewrite is None or planted.fitted, "the fault fits nothing any more"
    return seen


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_a_fault_the_days_of_the_planted_ones_end_as_promised(
    admin_url: str, template: str
) -> None:
    for plan in {planted.plan for planted in PLANTED}:
        assert broken(live(admin_url, template, plan)) == {}, plan


def test_every_planted_fault_names_promises_there_are() -> None:
    assert set().union(*(planted.breaks for planted in PLANTED)) <= PROMISES.keys()
