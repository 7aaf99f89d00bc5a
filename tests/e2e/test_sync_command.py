"""`steelyard sync`: accounts at the core bank are mirrored, and what waits is shown."""

import asyncio
from typing import Any

import pytest

from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.providers.contract import Limits
from steelyard.sync.enroll import allow_requests
from steelyard.sync.raise_target import SyncRequest, raise_users
from tests.e2e.cli_kit import Run, command
from tests.world import World


async def run(world: World, *arguments: str) -> Run:
    """Run a command on the world's database."""
    url = world.fresh.app_url
    return await asyncio.to_thread(command, *arguments, STEELYARD_DATABASE_URL=url)


async def test_accounts_are_added_once_and_their_user_is_due_within_a_period(world: World) -> None:
    await world.open_account(5, user="ann")
    added: list[Any] = [
        (await run(world, "sync", "add", "ann", number, "--currency", "ZMW", "--json", *more)).json
        for number, more in (("1001", ["--primary"]), ("1002", []), ("1001", ["--type", "SAVINGS"]))
    ]
    assert [one["opened"] for one in added] == [True, True, False]
    assert added[0]["account"] == added[2]["account"] != added[1]["account"]
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        target = await uow.fetchrow("SELECT cost, due_at FROM steelyard.sync_target")
        context = await uow.fetchval("SELECT context FROM steelyard.app_user WHERE id = 'ann'")
        types = await uow.fetch("SELECT number, account_type FROM steelyard.mirrored_account")
    assert target is not None
    assert (target["cost"], context) == (2, "MOBILE_BANKING")
    assert 0 <= (target["due_at"] - world.clock.now()).total_seconds() + 60 <= 360
    assert {row["number"]: row["account_type"] for row in types} == {
        "1001": "SAVINGS",
        "1002": None,
    }


async def test_what_cannot_be_added_is_said_and_nothing_is_written(world: World) -> None:
    unknown = await run(world, "sync", "add", "nobody", "1001", "--currency", "GBP", "--json")
    assert (unknown.code, unknown.problem["code"]) == (3, "not_found")
    assert "nobody" in unknown.problem["detail"]
    await world.open_account(5, user="ann")
    wrong = await run(world, "sync", "add", "ann", "x" * 65, "--currency", "GBP", "--json")
    assert wrong.problem["code"] == "invalid_input"
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert await uow.fetchval("SELECT count(*) FROM steelyard.sync_target") == 0
        assert await uow.fetchval("SELECT context FROM steelyard.app_user") == "WALLET"


async def test_the_status_counts_what_is_due(world: World) -> None:
    idle = await run(world, "sync", "status")
    assert idle.out == "0 logins and 0 other syncs are due; idle\n"
    told = (await run(world, "sync", "status", "--json")).json
    assert told == {
        "service": "balance-sync",
        "priority": 0,
        "background": 0,
        "processing": False,
        "lanes": [],
    }


async def test_a_user_is_paused_seen_cancelled_and_resumed(world: World) -> None:
    await world.open_account(5, user="ann")
    await run(world, "sync", "add", "ann", "1001", "--currency", "ZMW")
    await allow(world)
    paused = await run(world, "sync", "pause", "--user", "ann", "--reason", "under audit")
    assert paused.out == "paused user ann of tenant default\n"
    seen: Any = (await run(world, "sync", "user", "ann", "--json")).json
    assert seen["reason"] == "paused"
    assert (seen["target"]["paused_by"], seen["target"]["pause_reason"]) == (
        "system:cli",
        "under audit",
    )
    [account] = seen["accounts"]
    assert (account["ending"], account["balance"], account["read_at"]) == ("01", None, None)
    shown = await run(world, "sync", "user", "ann")
    assert "under audit" in shown.out
    assert "…01" in shown.out
    assert "1001" not in shown.out
    resumed = await run(world, "sync", "resume", "--user", "ann")
    assert resumed.out == "resumed user ann of tenant default\n"
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        now = world.clock.now()
        await raise_users(uow, [SyncRequest(UserId("ann"), "t24")], now=now)
    cancelled = await run(world, "sync", "cancel", "--user", "ann", "--reason", "by hand")
    assert cancelled.out == "cancelled 1 run of user ann of tenant default\n"


@pytest.mark.slow
async def test_a_source_is_paused_and_its_standing_shown_by_tenant(world: World) -> None:
    await world.open_account(5, user="ann")
    await run(world, "sync", "add", "ann", "1001", "--currency", "ZMW")
    await allow(world)
    assert (await run(world, "sync", "pause", "--provider", "t24")).code == 0
    told: Any = (await run(world, "sync", "status", "--json")).json
    [lane] = told["lanes"]
    assert (lane["tenant"], lane["provider"], lane["paused_by"]) == ("default", "t24", "system:cli")
    assert (lane["circuit"], lane["tiered"], lane["in_flight_max"]) == ("closed", False, 10)
    shown = await run(world, "sync", "status")
    assert "paused by system:cli" in shown.out
    resumed = await run(world, "sync", "resume", "--provider", "t24", "--json")
    assert resumed.json == {"paused": False, "changed": True}


@pytest.mark.slow
async def test_orders_for_nobody_are_refused(world: World) -> None:
    for order in (["pause"], ["pause", "--user", "ann", "--provider", "t24"], ["resume"]):
        refused = await run(world, "sync", *order, "--json")
        assert (refused.code, refused.problem["code"]) == (2, "usage")
    for order in (["pause", "--user", "ann"], ["cancel", "--user", "ann"], ["user", "ann"]):
        unknown = await run(world, "sync", *order, "--json")
        assert (unknown.code, unknown.problem["code"]) == (3, "not_found")
    unknown = await run(world, "sync", "pause", "--provider", "nowhere", "--json")
    assert (unknown.code, unknown.problem["code"]) == (3, "not_found")


async def allow(world: World) -> None:
    """Give the tenant a budget at the core bank, as a server does when it starts."""
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        await allow_requests(uow, "t24", Limits(10.0, 10), now=world.clock.now())
