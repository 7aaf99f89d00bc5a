"""A login over HTTP, from the core bank's socket to the user's answer; and what a hanging bank costs it."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from steelyard.access.model import Role
from steelyard.core.ids import DEFAULT_TENANT, AccountId, UserId
from steelyard.mirror.model import NewMirroredAccount
from steelyard.providers.contract import BalanceKind
from steelyard.providers.t24.simulator.faults import Fault
from steelyard.sync.enroll import Enrollment, enroll_accounts
from tests.e2e.providers.bank_kit import GBP, KEY, OVERDRAWN, Scene, opened
from tests.e2e.scene import assert_problem
from tests.e2e.server_kit import Server, bearer, start_server
from tests.sync_kit import measuring_lag
from tests.world import World

USER = UserId("banker")


@dataclass
class Banked:
    """A server beside a simulated core bank, and a user with an account there."""

    server: Server
    scene: Scene
    account: AccountId

    async def log_in(self, user: str = USER) -> tuple[dict[str, object], float]:
        """Log in as the user; the answer and the seconds it took."""
        began = time.monotonic()
        path = f"/api/sync/users/{user}/login"
        answer = await self.server.call("POST", path, headers=bearer(user, Role.USER))
        assert answer.status_code == 200, answer.text
        return answer.json(), time.monotonic() - began


@pytest_asyncio.fixture
async def banked(world: World, tmp_path: Path) -> AsyncIterator[Banked]:
    """Syncs only what is asked for."""
    await world.open_account(5, user="wallet")
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        now = world.clock.now()
        await uow.execute(
            "INSERT INTO steelyard.app_user (tenant_id, id, created_at) VALUES ($1, $2, $3)",
            DEFAULT_TENANT,
            USER,
            now,
        )
        wanted = [NewMirroredAccount(USER, "t24", OVERDRAWN.number, GBP, is_primary=True)]
        [(account, _)] = await enroll_accounts(uow, wanted, Enrollment("t24", None), now=now)
    async with opened() as scene:
        assert scene.server is not None
        settings = {
            "T24_API_URL": scene.server.url,
            "T24_API_KEY": KEY,
            "BALANCE_SYNC_INTERVAL": "0",
            "QUEUE_PROCESS_INTERVAL": "100",
        }
        server = await start_server(world.fresh.app_url, tmp_path, settings=settings)
        yield Banked(server, scene, account)
        scene.bank.faults.clear()
        await server.stop()
        assert '"event":"server.stopped"' in server.log_lines()[-1]


async def test_a_login_is_answered_with_what_the_bank_says(banked: Banked) -> None:
    told, _ = await banked.log_in()
    available = banked.scene.truth()[OVERDRAWN.number][BalanceKind.AVAILABLE]
    sign, minor = "-" if available < 0 else "", abs(available)
    assert (told["ok"], told["balance"], told["currency"], told["reason"], told["queued"]) == (
        True,
        f"{sign}{minor // 100}.{minor % 100:02d}",
        "GBP",
        None,
        False,
    )
    answer = await banked.server.call(
        "GET", f"/api/accounts/{banked.account}/balance", headers=bearer(USER, Role.USER)
    )
    assert answer.json()["available"] == available
    assert KEY not in banked.server.log.read_text()
    assert OVERDRAWN.number not in banked.server.log.read_text()


async def test_a_hanging_bank_is_answered_for_in_time_with_the_stored_balance(
    banked: Banked,
) -> None:
    fresh, _ = await banked.log_in()
    banked.scene.fail(Fault.HANG)
    async with measuring_lag() as lag:
        told, took = await banked.log_in()
    assert took <= 2.0 + 0.1 + 2 * lag.most_s  # two processes
    assert (told["ok"], told["reason"], told["queued"]) == (False, "timeout", True)
    assert (told["balance"], told["as_of"]) == (fresh["balance"], fresh["as_of"])
    status = await banked.server.call("GET", "/api/sync/status", headers={})
    assert status.json() == {
        "service": "balance-sync",
        "priority": 0,
        "background": 0,
        "processing": True,
    }


async def test_who_is_no_customer_is_refused_and_nobody_asks_for_others(banked: Banked) -> None:
    told, _ = await banked.log_in("wallet")
    assert (told["ok"], told["balance"], told["reason"]) == (False, None, "wallet")
    for path in (f"/api/sync/users/{USER}/login", f"/api/sync/users/{USER}"):
        answer = await banked.server.call("POST", path, headers=bearer("wallet", Role.USER))
        assert_problem(answer, 404, "not_found")
    queued = await banked.server.call("POST", f"/api/sync/users/{USER}", headers=bearer())
    assert queued.json()["queued"] is True
    assert queued.json()["run_id"] is not None


async def test_without_a_core_bank_every_answer_says_so(server: Server) -> None:
    for path in ("/api/sync/users/u/login", "/api/sync/users/u"):
        answer = await server.call("POST", path, headers=bearer())
        assert (answer.status_code, answer.json()["reason"]) == (200, "sync_off")
    status = await server.call("GET", "/api/sync/status", headers={})
    assert status.json()["service"] == "balance-sync"
