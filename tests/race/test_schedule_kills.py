"""Processes that tick are killed at any moment: each tick has its run, each run its tick, none of them twice."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from steelyard.runtime.database import Database
from tests.schedule_kit import ScheduleWorld, utc
from tests.world import FreshDatabase

ROOT = Path(__file__).parents[2]
START = utc(2026, 6, 1)
SPEED = 300.0  # five minutes a second
SCHEDULES = 24


@pytest.fixture
async def scene(fresh: FreshDatabase, database: Database) -> ScheduleWorld:
    """Schedules that tick every minute."""
    made = ScheduleWorld(fresh, database)
    made.clock.moment = START
    await made.let_each_tick_have_a_run()
    for i in range(3):
        tenant = await made.make_tenant(f"t{i}")
        for j in range(SCHEDULES // 3):
            await made.put(tenant, f"s{j}", cron="* * * * *")
    return made


async def test_killed_processes_leave_all_of_a_tick_or_nothing(scene: ScheduleWorld) -> None:
    await kill_often(scene, kills=3)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_kills_leave_all_of_each_tick_or_nothing(scene: ScheduleWorld) -> None:
    await kill_often(scene, kills=100)


async def kill_often(scene: ScheduleWorld, kills: int) -> None:
    """Keep two processes ticking and kill one after the other, each while it ticks."""
    chance, began_s = random.Random(20261121), time.time()
    async with contextlib.AsyncExitStack() as ending:
        processes = [
            await ending.enter_async_context(ticking(scene.fresh.app_url, began_s))
            for _ in range(2)
        ]
        for kill in range(kills):
            victim = processes[kill % 2]
            await has_ticked(victim)
            await asyncio.sleep(chance.uniform(0, 0.2))  # any moment will do
            victim.send_signal(signal.SIGKILL)
            await victim.wait()
            if kill < kills - 2:
                processes[kill % 2] = await ending.enter_async_context(
                    ticking(scene.fresh.app_url, began_s)
                )
    # What is due still is begun by a process that comes later; by then a tick of each is.
    ended = START + timedelta(seconds=(time.time() - began_s) * SPEED)
    scene.clock.moment = ended + timedelta(minutes=1)
    assert await scene.scheduler().tick_once() >= SCHEDULES
    await check_ticks(scene)


async def check_ticks(scene: ScheduleWorld) -> None:
    """Every tick has a run of its own that was planned for it, and every schedule stands where it should."""
    runs = await scene.runs()
    ticks = await scene.ask(
        "SELECT t.tenant_id, t.schedule, t.planned_for FROM steelyard.schedule_tick t"
        " JOIN steelyard.run r ON r.tenant_id = t.tenant_id AND r.id = t.run_id"
        " AND r.schedule = t.schedule AND r.planned_for = t.planned_for"
        " WHERE t.schedule LIKE 's%' ORDER BY t.planned_for, t.tenant_id, t.schedule"
    )
    assert runs == [tuple(tick) for tick in ticks]
    assert len(set(runs)) == len(runs) > SCHEDULES * 2
    states = await scene.ask("SELECT * FROM steelyard.schedule WHERE name LIKE 's%'")
    newest: dict[tuple[str, str], object] = {run[:2]: run[2] for run in runs}
    for state in states:
        assert state["last_planned_for"] == newest[state["tenant_id"], state["name"]]
        assert scene.clock.moment < state["next_at"] <= scene.clock.moment + timedelta(minutes=1)


@contextlib.asynccontextmanager
async def ticking(url: str, began_s: float) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process that ticks; it is killed on leaving if it lives."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.race.tick_schedules",
        url,
        START.isoformat(),
        str(began_s),
        str(SPEED),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def has_ticked(process: asyncio.subprocess.Process) -> None:
    """Wait until a process has begun runs, and forget what it told before."""
    assert process.stdout is not None
    while (told := (await process.stdout.readline()).strip()) == b"0":
        pass
    assert int(told) > 0
