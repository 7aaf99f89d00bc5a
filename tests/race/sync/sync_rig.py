"""Servers on one database beside a simulated core bank, each in a process of its own, and what is true of them afterwards."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from steelyard.core.ids import DEFAULT_TENANT, AccountId, UserId
from steelyard.mirror.model import NewMirroredAccount
from steelyard.mirror.store import set_context
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import CONNECTION_LOST, Connection, Database, connect
from steelyard.sync.enroll import Enrollment, enroll_accounts
from tests.e2e.server_kit import SECRET, Server, free_port
from tests.world import FreshDatabase

ROOT = Path(__file__).resolve().parents[3]
KEY = "shown-to-the-bank"
START_DEADLINE_S = 60.0
LOOK_S = 0.1
FIRST_NUMBER = 3_000_000_001


@dataclass(slots=True)
class BankProcess:
    """The bank, and its control surface."""

    process: asyncio.subprocess.Process
    url: str = ""

    async def order(self, what: str) -> Any:
        """Give an order and return what it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(what.encode() + b"\n")
        return await self.read()

    async def read(self) -> Any:
        """Return what the next line says."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_DEADLINE_S):
            return json.loads(await self.process.stdout.readline())

    async def fail(self, fault: str | None, **more: object) -> None:
        """Let every request meet a fault, or none."""
        async with httpx2.AsyncClient(base_url=f"{self.url}/_control", timeout=10) as client:
            (await client.delete("/faults")).raise_for_status()
        if fault is not None:
            await self.add_fault(fault, **more)

    async def add_fault(self, fault: str, **more: object) -> None:
        """Let requests that met no other fault meet this one."""
        async with httpx2.AsyncClient(base_url=f"{self.url}/_control", timeout=10) as client:
            order = {"fault": fault, **more}
            (await client.post("/faults", json=order)).raise_for_status()


@dataclass(slots=True)
class Rig:
    """What runs, and who may be struck."""

    fresh: FreshDatabase
    folder: Path
    bank: BankProcess
    numbers: list[str]
    lease_s: float
    settings: dict[str, str]
    planted: str = "nothing"
    chance: Random = field(default_factory=lambda: Random(4))
    servers: list[Server] = field(default_factory=list)
    held: list[AccountId] = field(default_factory=list)
    """Accounts of our own ledger, whose users have nothing to do with the bank."""

    async def start_server(self) -> Server:
        """Start one more server and wait until it is ready."""
        server = self._spawn()
        self.servers.append(server)
        await self._wait_until_ready(server)
        return server

    async def start_servers(self, count: int) -> None:
        """Start servers side by side."""
        await asyncio.gather(*(self.start_server() for _ in range(count)))

    async def kill(self, server: Server) -> None:
        """End one as a crash does."""
        self.servers.remove(server)
        server.process.kill()
        await asyncio.to_thread(server.process.wait, 10)
        await server.client.aclose()

    async def stop(self) -> None:
        """End all of them; who sleeps is woken first."""
        for server in self.servers:
            server.process.send_signal(signal.SIGCONT)
            server.process.terminate()
        for server in self.servers:
            await server.client.aclose()
            try:
                await asyncio.to_thread(server.process.wait, 20)
            except subprocess.TimeoutExpired:
                server.process.kill()
                await asyncio.to_thread(server.process.wait, 10)
        self.servers.clear()

    def _spawn(self) -> Server:
        port = free_port()
        log = self.folder / f"server-{port}.log"
        secret = self.folder / "secret"
        if not secret.exists():
            secret.write_text(SECRET)
            secret.chmod(0o600)
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "STEELYARD_DATABASE_URL": self.fresh.app_url,
            "STEELYARD_JWT_SECRET_FILE": str(secret),
            "STEELYARD_POOL_SIZE": "8",
            "T24_API_URL": self.bank.url,
            "T24_API_KEY": KEY,
            **self.settings,
        }
        command = [sys.executable, "-m", "tests.race.sync.server_process"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, str(port), str(self.lease_s), self.planted],
                env=environment,
                stdout=output,
                stderr=output,
                cwd=self.folder,
            )
        return Server(port, process, log)

    async def _wait_until_ready(self, server: Server) -> None:
        async with asyncio.timeout(START_DEADLINE_S):
            while True:
                ended = server.process.poll()
                assert ended is None, f"the server ended: {server.log.read_text()[-3000:]}"
                try:
                    if (await server.client.get("/readyz")).status_code == 200:
                        return
                except httpx2.HTTPError:
                    pass
                await asyncio.sleep(0.05)

    async def until(self, query: str, *, within_s: float) -> None:
        """Wait until a query gives true.

        Raises:
            TimeoutError: It does not in time.
        """
        async with asyncio.timeout(within_s):
            while True:
                try:
                    connection = await connect(self.fresh.admin_url)
                    try:
                        if await connection.fetchval(query):
                            return
                    finally:
                        await connection.close(timeout=2)
                except CONNECTION_LOST:
                    pass  # it is being restarted
                await asyncio.sleep(LOOK_S)


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a rig is."""

    users: int
    wallets: int = 0
    held: int = 0
    lease_s: float = 3.0
    interval_s: float | None = None
    latency: str = "quick"
    moves_per_s: float = 50.0
    requests_per_s: float = 2_000.0
    in_flight: int = 50
    planted: str = "nothing"
    seed: int = 4


@asynccontextmanager
async def open_rig(fresh: FreshDatabase, folder: Path, shape: Shape) -> AsyncIterator[Rig]:
    """Open a bank, enroll its users; no server runs yet."""
    count = shape.users + shape.wallets
    numbers = [str(FIRST_NUMBER + index) for index in range(count)]
    async with AsyncExitStack() as closing:
        bank = await closing.enter_async_context(_open_bank(numbers, shape))
        interval_ms = round((shape.interval_s or 0) * 1000)
        settings = {
            "BALANCE_SYNC_INTERVAL": str(interval_ms),
            "QUEUE_PROCESS_INTERVAL": "100",
            "STEELYARD_T24_REQUESTS_PER_S": str(shape.requests_per_s),
            "STEELYARD_T24_IN_FLIGHT": str(shape.in_flight),
        }
        rig = Rig(fresh, folder, bank, numbers, shape.lease_s, settings, shape.planted)
        rig.chance.seed(shape.seed)
        await _enroll(rig, shape)
        try:
            yield rig
        finally:
            await rig.stop()


@asynccontextmanager
async def _open_bank(numbers: Sequence[str], shape: Shape) -> AsyncIterator[BankProcess]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.race.sync.bank_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 28,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )
    try:
        bank = BankProcess(process)
        plan = {
            "numbers": list(numbers),
            "key": KEY,
            "latency": shape.latency,
            "moves_per_s": shape.moves_per_s,
            "seed": shape.seed,
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        bank.url = await bank.read()
        yield bank
    finally:
        if process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


def user_of(index: int) -> UserId:
    """The user with account number `index` of the bank."""
    return UserId(f"user-{index}")


async def _enroll(rig: Rig, shape: Shape) -> None:
    """Make users with an account each; the last ones become WALLET users afterwards, with all they had."""
    database = await Database.open(rig.fresh.app_url, pool_size=1)
    now = datetime.now(UTC)
    users = [user_of(index) for index in range(len(rig.numbers))]
    interval = None if shape.interval_s is None else timedelta(seconds=shape.interval_s)
    pounds = find_currency("GBP")
    wanted = [
        NewMirroredAccount(user, "t24", number, pounds, is_primary=True)
        for user, number in zip(users, rig.numbers, strict=True)
    ]
    try:
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            await uow.execute(
                "INSERT INTO steelyard.app_user (tenant_id, id, created_at) SELECT $1, u, $3 FROM unnest($2::text[]) u",
                DEFAULT_TENANT,
                users,
                now,
            )
            await enroll_accounts(uow, wanted, Enrollment("t24", interval), now=now)
            if wallets := users[shape.users :]:
                await set_context(uow, wallets, "WALLET")
    finally:
        await database.close()


@dataclass(slots=True)
class Told:
    """What was found wrong."""

    faults: list[str] = field(default_factory=list)

    def check(self, is_right: bool, what: str) -> None:
        """Note what is wrong."""
        if not is_right:
            self.faults.append(what)

    def assert_nothing(self) -> None:
        """Fail if anything is."""
        assert not self.faults, f"{len(self.faults)} faults: {self.faults[:8]}"


_CHANGES = """
    SELECT m.number, m.user_id, a.posted, a.seq AS newest, c.seq, c.amount, c.balance_after
      FROM steelyard.mirrored_account m
      JOIN steelyard.account a ON a.tenant_id = m.tenant_id AND a.id = m.account_id
      LEFT JOIN steelyard.change c ON c.tenant_id = a.tenant_id AND c.account_id = a.id
     ORDER BY m.number, c.seq
"""
# A run is under way only while somebody has its target, or its target waits to be taken again.
_LYING_RUNS = """
    SELECT r.id, r.state FROM steelyard.run r
      LEFT JOIN steelyard.sync_target t ON t.tenant_id = r.tenant_id AND r.id IN (t.run_id, t.again_run_id)
     WHERE r.state = 'running' AND (t.lease_until IS NULL OR t.run_id <> r.id)
        OR r.state IN ('pending', 'retrying') AND t.subject IS NULL
"""


async def check_balances(rig: Rig, told: Told) -> int:
    """Compare every balance and each of its steps with the bank's own history. Returns how many steps there were.

    No effect twice and none that is old: each step brought a balance that the bank truly had, later than the one before.
    """
    truth = (await rig.bank.order("tell"))["histories"]
    admin = await connect(rig.fresh.admin_url)
    try:
        rows = await admin.fetch(_CHANGES)
    finally:
        await admin.close()
    steps: dict[str, list[Any]] = {number: [] for number in rig.numbers}
    for row in rows:
        if row["seq"] is not None:
            steps[row["number"]].append(row)
    stored = {row["number"]: row for row in rows}
    for number, own in steps.items():
        history = {balance: index for index, balance in enumerate(truth[number])}
        told.check([s["seq"] for s in own] == list(range(1, len(own) + 1)), f"{number}: a gap")
        told.check(stored[number]["newest"] == len(own), f"{number}: the newest step is not there")
        told.check(all(s["amount"] != 0 for s in own), f"{number}: a step of nothing")
        total = sum(s["amount"] for s in own)
        told.check(total == stored[number]["posted"], f"{number}: steps do not add up")
        places = [history.get(s["balance_after"], -1) for s in own]
        told.check(-1 not in places, f"{number}: a balance the bank never had")
        told.check(places == sorted(set(places)), f"{number}: an old balance came again: {places}")
    return sum(map(len, steps.values()))


async def check_current(rig: Rig, told: Told, users: int) -> None:
    """Compare every balance with what the bank has now; the bank rests."""
    truth = (await rig.bank.order("tell"))["histories"]
    admin = await connect(rig.fresh.admin_url)
    try:
        rows = await admin.fetch(
            "SELECT m.number, a.posted FROM steelyard.mirrored_account m "
            "JOIN steelyard.account a ON a.tenant_id = m.tenant_id AND a.id = m.account_id"
        )
    finally:
        await admin.close()
    posted = {row["number"]: row["posted"] for row in rows}
    for number in rig.numbers[:users]:
        told.check(posted[number] == truth[number][-1], f"{number}: not what the bank has")


async def check_runs(admin: Connection, told: Told) -> None:
    """Note runs that say something else than their targets do, at this moment."""
    for row in await admin.fetch(_LYING_RUNS):
        told.check(False, f"run {row['id']} says {row['state']}")
