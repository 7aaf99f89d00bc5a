"""`steelyard sync`: accounts at the core bank are mirrored, and what waits is shown."""

import asyncio
from typing import Any

from steelyard.core.ids import DEFAULT_TENANT
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
