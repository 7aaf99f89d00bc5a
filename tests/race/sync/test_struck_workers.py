"""Workers killed and put to sleep at random: nothing is lost, nothing happens twice, and runs say what is true."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from steelyard.runtime.database import connect
from tests.e2e.server_kit import Server, bearer
from tests.race.sync.planted import plant_sql
from tests.race.sync.sync_rig import (
    Rig,
    Shape,
    Told,
    check_balances,
    check_current,
    check_runs,
    open_rig,
    user_of,
)
from tests.sync_kit import measuring_lag
from tests.world import FreshDatabase, World

LOOK_S = 0.1
SLACK_S = 1.0
"""What a look at the database and the next lease take on a machine that does other things too."""
ASKED_PER_S = 20.0


@dataclass(frozen=True)
class Size:
    """How many, and how often they are struck."""

    users: int
    servers: int
    blows: int
    lease_s: float
    interval_s: float


SMALL = Size(users=30, servers=2, blows=2, lease_s=1.5, interval_s=0.6)
FULL = Size(users=400, servers=3, blows=40, lease_s=3.0, interval_s=4.0)


@dataclass
class Watched:
    """What was seen from outside while workers were struck."""

    overdue_s: float = 0.0
    """Longest time a lease had been over and nobody had taken its target."""
    accepted: set[int] = field(default_factory=set)
    """Runs that were promised over HTTP."""


@asynccontextmanager
async def watching(rig: Rig, watched: Watched) -> AsyncIterator[None]:
    """Look again and again at leases that are over."""

    async def watch() -> None:
        admin = await connect(rig.fresh.admin_url)
        try:
            while True:
                seen = await admin.fetchval(
                    "SELECT max($1 - lease_until) FROM steelyard.sync_target WHERE lease_until <= $1",
                    datetime.now(UTC),
                )
                if seen is not None:
                    watched.overdue_s = max(watched.overdue_s, seen.total_seconds())
                await asyncio.sleep(0.05)
        finally:
            admin.terminate()

    async def ask() -> None:
        while True:
            await asyncio.sleep(1 / ASKED_PER_S)
            user, server = user_of(rig.chance.randrange(len(rig.numbers))), _awake(rig)
            try:
                path = f"/api/sync/users/{user}"
                answer = await server.client.post(path, headers=bearer(), timeout=2)
            except (httpx2.HTTPError, RuntimeError):
                continue  # it was struck
            if answer.status_code == 200 and answer.json()["run_id"]:
                watched.accepted.add(int(answer.json()["run_id"]))

    tasks = [asyncio.create_task(watch()), asyncio.create_task(ask())]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _awake(rig: Rig) -> Server:
    return rig.chance.choice(rig.servers)


async def kill_one(rig: Rig) -> None:
    """kill -9 one; another one is started in its place."""
    await rig.kill(rig.chance.choice(rig.servers))
    await rig.start_server()


async def sleep_one(rig: Rig) -> None:
    """Stop one in its tracks, for longer than its leases last or not, and let it wake."""
    server = rig.chance.choice(rig.servers)
    server.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(rig.lease_s * rig.chance.uniform(0.3, 1.8))
    server.process.send_signal(signal.SIGCONT)
    await asyncio.sleep(0.3)


async def settle(
    rig: Rig, users: int, *, within_s: float, promised: frozenset[int] = frozenset()
) -> None:
    """Let the bank rest, wait until everybody was synced after that and what was promised is over; end the servers.

    A run that is in flight when its server ends is handed back, and would wait for a worker.
    """
    await rig.bank.order("rest")
    now = datetime.now(UTC).isoformat()
    await rig.until(
        "SELECT bool_and(last_success_at > timestamptz "
        f"'{now}') AND count(*) = {users} FROM steelyard.sync_target",
        within_s=within_s,
    )
    ids = ",".join(str(run) for run in sorted(promised)) or "0"
    await rig.until(
        f"SELECT count(*) = 0 FROM steelyard.run WHERE finished_at IS NULL AND id IN ({ids})",
        within_s=within_s,
    )
    await rig.stop()


async def strike(rig: Rig, size: Size, watched: Watched) -> Told:
    """Strike workers one after the other while balances move; return what is wrong afterwards."""
    told = Told()
    await rig.start_servers(size.servers)
    await rig.bank.order("move")
    blows = [kill_one, sleep_one] * (size.blows // 2)
    rig.chance.shuffle(blows)
    async with watching(rig, watched):
        for blow in blows:
            await blow(rig)
            await asyncio.sleep(rig.chance.random() * 0.3)
    try:
        within_s, promised = 4 * size.lease_s + 2 * size.interval_s + 5, frozenset(watched.accepted)
        await settle(rig, size.users, within_s=within_s, promised=promised)
    except TimeoutError:
        told.check(False, "not everybody was synced again")
    await check_current(rig, told, size.users)
    await check_balances(rig, told)
    await check_promises(rig, told, watched)
    return told


async def check_promises(rig: Rig, told: Told, watched: Watched) -> None:
    """Compare runs with targets, and with what was promised."""
    admin = await connect(rig.fresh.admin_url)
    try:
        await check_runs(admin, told)
        rows = await admin.fetch(
            "SELECT id, state, error FROM steelyard.run WHERE id = ANY ($1)",
            sorted(watched.accepted),
        )
        held = await admin.fetchval(
            "SELECT count(*) FROM steelyard.sync_target WHERE leased_by IS NOT NULL"
        )
    finally:
        await admin.close()
    told.check(held == 0, f"{held} leases though nobody works")
    told.check(len(rows) == len(watched.accepted), "a promised run is not there")
    for row in rows:
        is_over = row["state"] in ("completed", "failed", "expired", "superseded", "cancelled")
        told.check(is_over, f"promised run {row['id']} is {row['state']}")
        if row["state"] in ("failed", "expired"):
            why = json.loads(row["error"])["code"]
            told.check(why in ("worker_lost", "worker_late", "provider_transient"), f"{why}")


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(FULL, id="full", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
async def test_killed_and_sleeping_workers_lose_nothing_and_double_nothing(
    world: World, fresh: FreshDatabase, tmp_path: Path, size: Size
) -> None:
    began_s, watched = time.monotonic(), Watched()
    async with measuring_lag() as lag, open_rig(fresh, tmp_path, shape_of(size)) as rig:
        told = await strike(rig, size, watched)
        admin = await connect(fresh.admin_url)
        lost = await admin.fetchval(
            "SELECT count(*) FROM steelyard.run WHERE attempts > 1 OR state = 'expired'"
        )
        runs = await admin.fetchval("SELECT count(*) FROM steelyard.run")
        await admin.close()
    told.assert_nothing()
    print(  # noqa: T201  (shown by pytest -rP)
        f"{size.blows} blows, {runs} runs, {lost} of them begun again, {len(watched.accepted)} promised; a lease was over "
        f"for at most {watched.overdue_s:.2f} s, lag {lag.most_s:.3f} s; {time.monotonic() - began_s:.0f} s"
    )
    assert lost, "nobody was struck while at work"
    assert watched.accepted
    assert watched.overdue_s <= LOOK_S + SLACK_S + 3 * lag.most_s


def shape_of(size: Size, planted: str = "nothing") -> Shape:
    """A bank that takes its time, so that whoever is struck has something under way."""
    return Shape(
        users=size.users,
        lease_s=size.lease_s,
        interval_s=size.interval_s,
        latency="busy",
        moves_per_s=size.users * 4.0,
        planted=planted,
    )


_HELD_BUDGETS = """
    SELECT count(*) FROM pg_stat_activity a
     WHERE a.datname = current_database() AND a.state = 'idle in transaction' AND a.pid IN (
           SELECT l.pid FROM pg_locks l WHERE l.relation = 'steelyard.provider_budget'::regclass AND l.mode = 'RowShareLock')
"""


async def stop_with_the_budget_held(rig: Rig, server: Server) -> None:
    """Stop a server in its tracks at a moment when it has the budget's row, which every worker needs."""
    admin = await connect(rig.fresh.admin_url)
    try:
        async with asyncio.timeout(60):
            while True:
                server.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.05)  # what it has asked for is answered
                if await admin.fetchval(_HELD_BUDGETS):
                    return
                server.process.send_signal(signal.SIGCONT)
                await asyncio.sleep(rig.chance.random() * 0.02)
    finally:
        await admin.close()


@pytest.mark.slow
async def test_who_falls_asleep_with_the_budget_in_hand_loses_it(
    world: World, fresh: FreshDatabase, tmp_path: Path
) -> None:
    size = Size(users=30, servers=1, blows=0, lease_s=3.0, interval_s=0.3)
    async with open_rig(fresh, tmp_path, shape_of(size)) as rig:
        asleep = await rig.start_server()
        await stop_with_the_budget_held(rig, asleep)
        await rig.start_server()
        began_s = time.monotonic()
        await settle(rig, size.users, within_s=2 * size.lease_s + 5)
        took_s, told = time.monotonic() - began_s, Told()
        await check_balances(rig, told)
    told.assert_nothing()
    print(f"all synced again after {took_s:.1f} s")  # noqa: T201  (shown by pytest -rP)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("sql", "planted", "expected"),
    [
        ("nothing", "nothing", None),
        ("leases for ever", "nothing", "not everybody was synced again"),
        ("tells no run", "nothing", "says running"),
        ("believes everybody", "asks without deadline", "an old balance came again"),
    ],
)
async def test_a_planted_mistake_is_noticed(
    world: World, fresh: FreshDatabase, tmp_path: Path, sql: str, planted: str, expected: str | None
) -> None:
    await plant_sql(fresh.admin_url, sql)
    size = Size(users=30, servers=3, blows=8, lease_s=2.0, interval_s=0.6)
    async with open_rig(fresh, tmp_path, shape_of(size, planted)) as rig:
        told = await strike(rig, size, Watched())
    print(f"{sql}: {len(told.faults)} faults, {told.faults[:3]}")  # noqa: T201  (shown by pytest -rP)
    if expected is None:
        told.assert_nothing()
    else:
        assert any(expected in fault for fault in told.faults)
