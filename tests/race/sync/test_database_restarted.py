"""PostgreSQL stopped at once, started again, and put to sleep, under load: everything goes on by itself and is right."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from steelyard.core.ids import DEFAULT_TENANT, AccountId
from steelyard.reconcile.verify import Depth, Scope, verify_tenant
from steelyard.runtime.database import Database, connect
from steelyard.runtime.embedded.folder import DataFolder
from steelyard.runtime.embedded.processes import find_server_processes
from tests.crash.postgres import PostgresUnderFire
from tests.e2e.server_kit import bearer, key
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
from tests.race.sync.test_struck_workers import settle
from tests.sync_kit import measuring_lag
from tests.world import World

DEADLINE_S, ALLOWED_S = 2.0, 0.1
CHARGES_PER_S, LOGINS_PER_S = 20.0, 10.0
OPENING = 1_000_000


@dataclass(frozen=True)
class Size:
    """How many, and what befalls the database: it is stopped, or sleeps for so many seconds."""

    users: int
    servers: int
    blows: tuple[float | None, ...]
    lease_s: float = 2.0
    interval_s: float = 0.6


SMALL = Size(30, 1, (None, 0.7))
FULL = Size(300, 3, (None, 3.0, None, None, 3.0, None, 3.0, None), interval_s=3.0)


@dataclass
class Load:
    """What was asked for meanwhile."""

    rig: Rig
    accounts: list[AccountId]
    charged: int = 0
    repeated: int = 0
    logins: int = 0
    failed_logins: int = 0
    slowest_login_s: float = 0.0
    is_over: bool = False
    _asking: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Charge and log in until it is over; every charge is repeated under its key until it is acknowledged."""
        await asyncio.gather(
            self._every(1 / CHARGES_PER_S, self._charge),
            self._every(1 / LOGINS_PER_S, self._log_in),
        )
        await asyncio.gather(*self._asking)

    async def _every(self, gap_s: float, act: object) -> None:
        assert callable(act)
        while not self.is_over:
            self._asking.add(asyncio.create_task(act()))
            await asyncio.sleep(gap_s)

    async def _charge(self) -> None:
        account = self.rig.chance.choice(self.accounts)
        headers = {**bearer(), **key()}
        async with asyncio.timeout(60):
            while True:
                server = self.rig.chance.choice(self.rig.servers)
                path = f"/api/accounts/{account}/charges"
                with contextlib.suppress(httpx2.HTTPError):
                    answer = await server.client.post(path, json={"amount": 1}, headers=headers)
                    if answer.status_code in (200, 201):
                        break
                    assert answer.status_code in (500, 503), answer.text
                self.repeated += 1
                await asyncio.sleep(0.1)
        self.charged += 1

    async def _log_in(self) -> None:
        user = user_of(self.rig.chance.randrange(len(self.rig.numbers)))
        server = self.rig.chance.choice(self.rig.servers)
        began_s = time.monotonic()
        answer = await server.client.post(f"/api/sync/users/{user}/login", headers=bearer())
        self.slowest_login_s = max(self.slowest_login_s, time.monotonic() - began_s)
        self.logins += 1
        self.failed_logins += answer.status_code != 200
        assert answer.status_code in (200, 429, 503), answer.text


@asynccontextmanager
async def own_world(folder: Path) -> AsyncIterator[tuple[PostgresUnderFire, World]]:
    """A PostgreSQL of the test's own, and a world on it."""
    postgres = await PostgresUnderFire.start(folder / "postgres")
    try:
        fresh = await postgres.fresh()
        database = await Database.open(fresh.app_url)
        world = await World.open(database, fresh)
        try:
            yield postgres, world
        finally:
            await world.close()
            await database.close()
    finally:
        await postgres.stop()


async def put_to_sleep(postgres: PostgresUnderFire, seconds: float) -> None:
    """Stop every process of the server in its tracks for a while."""
    assert postgres.server is not None
    pids = find_server_processes(DataFolder(postgres.server.data_dir))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def strike(
    postgres: PostgresUnderFire, rig: Rig, size: Size, accounts: list[AccountId]
) -> tuple[Told, Load]:
    """Strike the database again and again; return what is wrong afterwards."""
    told, load = Told(), Load(rig, accounts)
    await rig.start_servers(size.servers)
    await rig.bank.order("move")
    loading = asyncio.create_task(load.run())
    for blow in size.blows:
        await asyncio.sleep(0.5 + rig.chance.random())
        if blow is None:
            await postgres.stop_immediately()
            await postgres.wait_ready()
        else:
            await put_to_sleep(postgres, blow)
    await asyncio.sleep(0.5)
    load.is_over = True
    await loading
    try:
        await settle(rig, size.users, within_s=3 * size.lease_s + 2 * size.interval_s + 8)
    except TimeoutError:
        told.check(False, "not everybody was synced again")
    await check_current(rig, told, size.users)
    await check_balances(rig, told)
    return told, load


async def check_all(world: World, told: Told, load: Load) -> None:
    """Compare what was acknowledged with what is there, runs with targets, and prove every balance."""
    admin = await connect(world.fresh.admin_url)
    try:
        await check_runs(admin, told)
        taken = await admin.fetchval(
            "SELECT sum($2 - posted)::bigint FROM steelyard.account WHERE id = ANY ($1)",
            load.accounts,
            OPENING,
        )
    finally:
        await admin.close()
    told.check(taken == load.charged, f"acknowledged {load.charged} charges, {taken} are there")
    database = await Database.open(world.fresh.app_url, pool_size=2)
    try:
        proof = await verify_tenant(Scope(database, DEFAULT_TENANT), depth=Depth.CHAIN)
    finally:
        await database.close()
    told.check(proof.is_clean, "a proof of the balances does not hold")


async def run(
    folder: Path, size: Size, *, sql: str = "", planted: str = "nothing"
) -> tuple[Told, Load]:
    """Strike a database of our own; return what is wrong, and what was asked for."""
    async with own_world(folder) as (postgres, world):
        await plant_sql(world.fresh.admin_url, sql)
        accounts = [await world.open_account(OPENING, user=f"held-{n}") for n in range(10)]
        shape = Shape(
            users=size.users,
            lease_s=size.lease_s,
            interval_s=size.interval_s,
            moves_per_s=size.users * 4.0,
            planted=planted,
        )
        async with open_rig(world.fresh, folder, shape) as rig:
            told, load = await strike(postgres, rig, size, accounts)
            await check_all(world, told, load)
    return told, load


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(SMALL, id="small", marks=pytest.mark.slow),
        pytest.param(FULL, id="full", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
async def test_everything_goes_on_after_the_database_was_away(tmp_path: Path, size: Size) -> None:
    began_s = time.monotonic()
    async with measuring_lag() as lag:
        told, load = await run(tmp_path, size)
    print(  # noqa: T201  (shown by pytest -rP)
        f"{len(size.blows)} blows; {load.charged} charges ({load.repeated} repeats), {load.logins} logins "
        f"({load.failed_logins} refused), the slowest {load.slowest_login_s:.2f} s; lag {lag.most_s:.3f} s; "
        f"{time.monotonic() - began_s:.0f} s"
    )
    told.assert_nothing()
    assert load.repeated + load.failed_logins, "nobody noticed that the database was away"
    assert load.logins
    assert load.slowest_login_s <= DEADLINE_S + ALLOWED_S + 2 * lag.most_s


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "planted"), [("", "gives up without database"), ("leases for ever", "nothing")]
)
async def test_a_planted_mistake_is_noticed(tmp_path: Path, sql: str, planted: str) -> None:
    told, _ = await run(tmp_path, Size(30, 1, (None, None)), sql=sql, planted=planted)
    assert "not everybody was synced again" in told.faults
