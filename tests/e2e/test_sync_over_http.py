"""A login over HTTP, from the core bank's socket to the user's answer; and what a hanging bank costs it."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
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
    settings: dict[str, str]

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
        banked = Banked(server, scene, account, settings)
        yield banked
        scene.bank.faults.clear()
        await banked.server.stop()
        assert '"event":"server.stopped"' in banked.server.log_lines()[-1]


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
    listed = await banked.server.call(
        "GET", "/api/transactions?source=mirrored", headers=bearer(USER, Role.USER)
    )
    [change] = listed.json()["data"]
    assert (change["kind"], change["amount"], change["transaction"]) == ("sync", available, None)
    assert KEY not in banked.server.log.read_text()
    assert OVERDRAWN.number not in banked.server.log.read_text()


async def test_own_money_is_listed_however_many_accounts_are_mirrored(
    banked: Banked, world: World
) -> None:
    await world.open_account(5, user=USER)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        numbers = [NewMirroredAccount(USER, "t24", f"9{i}", GBP) for i in range(21)]
        await enroll_accounts(uow, numbers, Enrollment("t24", None), now=world.clock.now())
    caller = bearer(USER, Role.USER)
    held = await banked.server.call("GET", "/api/transactions?source=held", headers=caller)
    [change] = held.json()["data"]
    assert (change["amount"], change["transaction"]) == (5, change["id"])
    for query in ("", "?source=mirrored"):
        refused = await banked.server.call("GET", f"/api/transactions{query}", headers=caller)
        assert_problem(refused, 422, "invalid_input")


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


async def test_operators_pause_cancel_and_see_how_it_stands(banked: Banked) -> None:
    server, operator = banked.server, bearer("olga", Role.OPERATOR)
    fresh, _ = await banked.log_in()
    body = {"reason": "the bank asked us to"}
    for changed in (True, False):
        answer = await server.call("POST", "/api/sync/pause", json=body, headers=operator)
        assert answer.json() == {"paused": True, "changed": changed}
    told, took = await banked.log_in()
    assert (told["ok"], told["reason"], told["balance"]) == (False, "paused", fresh["balance"])
    assert took < 2.0
    status = await server.call("GET", "/api/sync/status?detail=true", headers=operator)
    [source] = status.json()["sources"]
    assert (source["tenant"], source["paused_by"], source["pause_reason"]) == (
        "default",
        "olga",
        "the bank asked us to",
    )
    assert (source["circuit"], source["in_flight"], source["used_today"]) == ("closed", 0, 1)
    for caller, code in ((bearer(USER, Role.USER), 403), ({}, 401)):
        refused = await server.call("GET", "/api/sync/status?detail=true", headers=caller)
        assert refused.status_code == code
        refused = await server.call("POST", "/api/sync/resume", json={}, headers=caller)
        assert refused.status_code == code
    resumed = await server.call("POST", "/api/sync/resume", json={}, headers=operator)
    assert resumed.json() == {"paused": False, "changed": True}
    assert (await banked.log_in())[0]["ok"] is True
    path = f"/api/sync/users/{USER}"
    cancelled = await server.call("POST", f"{path}/cancel", headers=operator)
    assert cancelled.json() == {"cancelled": 0}
    unknown = await server.call("POST", "/api/sync/users/nobody/cancel", headers=operator)
    assert_problem(unknown, 404, "not_found")
    wrong = await server.call("POST", "/api/sync/pause", json={"reason": 7}, headers=operator)
    assert_problem(wrong, 422, "invalid_input")
    seen = (await server.call("GET", path, headers=bearer(USER, Role.USER))).json()
    [account] = seen["accounts"]
    assert (account["balance"], account["currency"]) == (fresh["balance"], "GBP")
    assert account["read_at"] > account["as_of"]
    assert [run["state"] for run in seen["runs"]] == ["completed", "completed"]
    figures = (await server.call("GET", "/metrics", headers={})).text
    assert 'steelyard_sync_logins_total{result="ok"} 2.0' in figures
    assert 'steelyard_sync_logins_total{result="paused"} 1.0' in figures


async def test_syncs_of_a_user_can_not_be_asked_for_without_end(server: Server) -> None:
    asked = [server.call("POST", "/api/sync/users/eager", headers=bearer()) for _ in range(60)]
    answers = await asyncio.gather(*asked)
    refused = [one for one in answers if one.status_code != 200]
    assert 20 <= len(refused) <= 30
    for one in refused:
        assert_problem(one, 429, "rate_limited")
        assert 1 <= int(one.headers["Retry-After"]) <= 2


@pytest.mark.slow
async def test_a_server_that_is_told_to_end_gives_its_syncs_to_the_next_one(
    banked: Banked, world: World, tmp_path: Path
) -> None:
    banked.scene.fail(Fault.HANG)
    told, _ = await banked.log_in()
    assert (told["ok"], told["queued"]) == (False, True)
    began = time.monotonic()
    await banked.server.stop()
    assert time.monotonic() - began < 15
    log = banked.server.log.read_text()
    assert '"event":"sync.given_back"' in log
    banked.scene.bank.faults.clear()
    settings = {**banked.settings, "AUTH_SYNC_TIMEOUT": "10000"}
    banked.server = await start_server(world.fresh.app_url, tmp_path, settings=settings)
    began = time.monotonic()
    again, _ = await banked.log_in()
    assert again["ok"] is True
    assert time.monotonic() - began < 8  # not after the lease of the first server, 30 s
    path = f"/api/sync/users/{USER}"
    seen = (await banked.server.call("GET", path, headers=bearer(USER, Role.USER))).json()
    runs = {run["id"]: run["state"] for run in seen["runs"]}
    assert runs[told["run_id"]] == runs[again["run_id"]] == "completed"


async def test_a_request_is_answered_with_a_token_that_follows_its_run(banked: Banked) -> None:
    answer = await banked.server.call("POST", f"/api/sync/users/{USER}", headers=bearer())
    told = answer.json()
    assert told["id"] == told["jobId"] == told["run_id"]
    token = told["publicAccessToken"]
    async with asyncio.timeout(20):
        while True:
            seen = await banked.server.call(
                "GET",
                f"/api/jobs/status?id={told['id']}",
                headers={"Authorization": f"Bearer {token}"},
            )
            assert seen.status_code == 200, seen.text
            if seen.json()["status"] == "COMPLETED":
                break
            await asyncio.sleep(0.05)
    assert token not in seen.text
    mine = await banked.server.call(
        "GET", f"/api/jobs/status?id={told['id']}", headers=bearer(USER, Role.USER)
    )
    assert mine.json() == seen.json()
    refused = await banked.server.call("POST", "/api/sync/users/wallet", headers=bearer())
    assert (refused.json()["publicAccessToken"], refused.json()["jobId"]) == (None, None)
