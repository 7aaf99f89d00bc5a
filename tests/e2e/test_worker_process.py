"""Real `steelyard worker` processes: they take work over from each other, and end in order."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from steelyard.core.ids import DEFAULT_TENANT
from steelyard.jobs.model import RunRequest
from steelyard.jobs.request_run import request_run
from steelyard.reconcile.run_kinds import VERIFY_AND_FIX
from steelyard.runtime.database import Connection, connect
from tests.e2e.cli_kit import COMMAND, environment
from tests.e2e.server_kit import start_server
from tests.jobs_kit import rows, until_state
from tests.world import World

READY_DEADLINE_S = 60.0
RESCUE_DEADLINE_S = 30.0
READING, WRITING = "steelyard.account", "steelyard.audit"
"""Tables: while they are locked, the proof waits before it reads, and in the unit of work that ends it."""


@dataclass
class Process:
    """A worker of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 60)


@asynccontextmanager
async def worker(world: World, folder: Path, name: str, **extra: str) -> AsyncIterator[Process]:
    """A worker that is at work; killed at the end if it still runs."""
    log = folder / f"{name}.log"
    settings = {"STEELYARD_DATABASE_URL": world.fresh.app_url, "STEELYARD_POOL_SIZE": "4"}
    process = spawn(folder, log, environment(**settings, **extra))
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_DEADLINE_S):
            told = await asyncio.to_thread(os.read, process.stdout.fileno(), 65_536)
        assert told, log.read_text()
        assert json.loads(told)["working"]
        yield Process(process, log)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        process.stdout.close()


def spawn(folder: Path, log: Path, given: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            [*COMMAND, "worker", "--json"],
            env=dict(given),
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=folder,
        )


@asynccontextmanager
async def locked(world: World, table: str) -> AsyncIterator[Connection]:
    """Nobody else reads or writes a table while inside; what is yielded may unlock it before."""
    admin = await connect(world.fresh.admin_url)
    await admin.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    try:
        yield admin
    finally:
        await admin.close()


async def ask(world: World) -> int:
    """Ask for a proof of all balances."""
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        made = await request_run(uow, VERIFY_AND_FIX, RunRequest("tenant"), now=world.clock.now())
    return made.run


async def until_blocked(admin: Connection, table: str) -> None:
    """Wait until somebody waits for the table."""
    async with asyncio.timeout(30):
        while not await admin.fetchval(  # noqa: ASYNC110 - the server tells nobody
            "SELECT count(*) FROM pg_locks WHERE relation = $1::regclass AND NOT granted", table
        ):
            await asyncio.sleep(0.02)


async def proofs(world: World) -> list[tuple[object, ...]]:
    return await rows(
        world, "SELECT target FROM steelyard.audit WHERE action = 'balances.verify_and_fix'"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "table"),
    [(signal.SIGKILL, READING), (signal.SIGSTOP, READING), (signal.SIGSTOP, WRITING)],
    ids=["killed", "stopped", "stopped_while_it_ends_the_run"],
)
async def test_a_job_whose_worker_is_struck_is_finished_by_another_within_30_s_and_once(
    world: World, tmp_path: Path, number: signal.Signals, table: str
) -> None:
    async with (
        worker(world, tmp_path, "first") as first,
        worker(world, tmp_path, "second") as second,
        locked(world, table) as admin,
    ):
        run = await ask(world)
        await until_blocked(admin, table)
        [(name,)] = await rows(world, "SELECT worker FROM steelyard.job")
        struck, other = (first, second) if str(name) in first.log.read_text() else (second, first)
        struck.send(number)
        struck_s = time.monotonic()
        await admin.execute("ROLLBACK")
        await until_state(world, run, "completed", within_s=60)
        assert time.monotonic() - struck_s < RESCUE_DEADLINE_S
        assert await proofs(world) == [(f"run:{run}",)]
        if number is signal.SIGSTOP:
            struck.send(signal.SIGCONT)
            struck.send(signal.SIGTERM)
            assert await struck.ended() == 0
            assert "jobs.lost" in struck.log.read_text()
        other.send(signal.SIGTERM)
        assert await other.ended() == 0
    assert await proofs(world) == [(f"run:{run}",)]
    assert await rows(world, "SELECT state, attempts FROM steelyard.run") == [("completed", 2)]
    assert await rows(world, "SELECT run_id FROM steelyard.job") == []
    assert "jobs.rescued" in other.log.read_text()


async def test_a_worker_does_what_is_asked_for_and_hands_back_the_rest_when_it_ends(
    world: World, tmp_path: Path
) -> None:
    async with worker(world, tmp_path, "first", STEELYARD_JOB_DRAIN_MS="200") as first:
        done = await ask(world)
        await until_state(world, done, "completed")
        async with locked(world, READING) as admin:
            run = await ask(world)
            await until_blocked(admin, READING)
            first.send(signal.SIGTERM)
            assert await first.ended() == 0
    assert await rows(world, "SELECT run_id, state, attempt FROM steelyard.job") == [
        (run, "waiting", 0)
    ]
    assert await rows(world, "SELECT name FROM steelyard.job_worker") == []
    assert "jobs.handed_back" in first.log.read_text()


async def test_a_server_that_is_not_to_work_leaves_jobs_to_workers(
    world: World, tmp_path: Path
) -> None:
    server = await start_server(world.fresh.app_url, tmp_path, settings={"STEELYARD_WORK": "false"})
    try:
        run = await ask(world)
        assert await rows(world, "SELECT name FROM steelyard.job_worker") == []
        async with worker(world, tmp_path, "first"):
            await until_state(world, run, "completed")
            assert len(await rows(world, "SELECT name FROM steelyard.job_worker")) == 1
    finally:
        await server.stop()
    assert "jobs.started" not in server.log.read_text()
