"""`steelyard jobs`: what is done in the background, seen and steered from a terminal."""

import asyncio
from datetime import timedelta

from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.jobs.model import State
from tests.e2e.cli_kit import Run, command
from tests.jobs_kit import KIND, ask, rows, until_state, working
from tests.runs_kit import write_run
from tests.sync_kit import open_sync_world
from tests.world import World


async def run(world: World, *arguments: str) -> Run:
    """Run a command on the world's database."""
    url = world.fresh.app_url
    return await asyncio.to_thread(command, "jobs", *arguments, STEELYARD_DATABASE_URL=url)


async def test_runs_are_listed_by_filter_and_page_and_shown_whole(world: World) -> None:
    now = world.clock.now()
    made = [
        str(await write_run(world.database, at=now + timedelta(minutes=n), subject=f"u{n}"))
        for n in range(3)
    ]
    bad = await write_run(
        world.database,
        at=now - timedelta(days=2),
        subject="bad\x1b[2J",
        state=State.FAILED,
        error="timeout",
    )
    first = (await run(world, "list", "--limit", "2", "--json")).json
    assert [one["id"] for one in first["data"]] == [made[2], made[1]]
    rest = (await run(world, "list", "--cursor", first["next_cursor"], "--json")).json
    assert [one["id"] for one in rest["data"]] == [made[0], str(bad)]
    for options in (
        ("--state", "failed,expired"),
        ("--error", "timeout"),
        ("--to", (now - timedelta(days=1)).strftime("%Y-%m-%d")),
        ("--subject", "bad\x1b[2J"),
    ):
        found = (await run(world, "list", *options, "--json")).json
        assert [one["id"] for one in found["data"]] == [str(bad)], options
    table = (await run(world, "list")).out
    assert "bad?[2J" in table
    assert "\x1b[2J" not in table
    shown = await run(world, "show", str(bad))
    assert '"code": "timeout"' in shown.out
    assert (await run(world, "show", made[0], "--json")).json["result"] == {"success": True}
    assert (await run(world, "list", "--state", "lost")).code == 2
    await world.make_tenant(TenantId("other"))
    for missing in ("999999", "x"):
        assert (await run(world, "show", missing)).code == 3
    assert (await run(world, "show", made[0], "--tenant", "other")).code == 3
    assert (await run(world, "list", "--tenant", "other", "--json")).json["data"] == []
    assert (await run(world, "list", "--tenant", "nobody")).code == 3


async def test_a_run_is_asked_for_shared_cancelled_and_on_record(world: World) -> None:
    first = (await run(world, "run", "clean-up", "--json")).json
    again = (await run(world, "run", "clean-up", "--json")).json
    assert again == {"id": first["id"], "kind": "clean-up", "is_new": False}
    assert first["is_new"] is True
    unknown = await run(world, "run", "make-coffee", "--json")
    assert (unknown.code, unknown.problem["code"]) == (2, "unknown_job_kind")
    assert "balance-verify-sync" in unknown.problem["known"]
    assert (await run(world, "run", "clean-up", "--arguments", "[1]")).code == 2
    assert (await run(world, "cancel", first["id"])).out == f"run {first['id']} is cancelled\n"
    ended = await run(world, "cancel", first["id"], "--json")
    assert ended.json == {"id": first["id"], "outcome": "ended", "state": "cancelled"}
    assert (await run(world, "cancel", "999999")).code == 3
    assert await rows(
        world,
        "SELECT actor, action, outcome FROM steelyard.audit WHERE action LIKE 'run.%' ORDER BY id",
    ) == [
        ("system:cli", "run.request", "done"),
        ("system:cli", "run.request", "done"),
        ("system:cli", "run.cancel", "cancelled"),
        ("system:cli", "run.cancel", "ended"),
    ]


async def test_cancelling_the_run_of_a_sync_ends_it(world: World) -> None:
    synced = await open_sync_world(world)
    await synced.enroll(["ann"])
    await synced.make_due()
    [lease] = (await synced.lease()).leases
    told = (await run(world, "cancel", str(lease.run), "--json")).json
    assert told == {"id": str(lease.run), "outcome": "cancelled", "state": "cancelled"}
    assert (await run(world, "cancel", str(lease.run), "--json")).json["outcome"] == "ended"


async def test_dead_letters_are_listed_and_tried_again(world: World) -> None:
    async def fail(context: object) -> dict[str, object]:
        raise LookupError

    made = await ask(world)
    async with working(world, fail):
        await until_state(world, made.run, "failed")
    [letter] = (await run(world, "failed", "--json")).json["data"]
    assert (letter["id"], letter["error"]["code"]) == (str(made.run), "unclassified")
    assert (await run(world, "failed", "--kind", "clean-up", "--json")).json["data"] == []
    done = await run(world, "requeue", str(made.run))
    assert done.out == f"run {made.run} is tried again\n"
    refused = await run(world, "requeue", str(made.run), "--json")
    assert (refused.code, refused.problem["code"]) == (4, "run_not_dead")
    async with working(world):
        await until_state(world, made.run, "completed")
    figures = {one["kind"]: one for one in (await run(world, "stats", "--json")).json}
    assert figures[KIND.name]["completed"] == 1
    assert figures["clean-up"] == {
        "kind": "clean-up",
        **dict.fromkeys(("waiting", "active", "delayed", "completed", "failed"), 0),
        "p50_s": None,
        "p95_s": None,
    }
    assert KIND.name in (await run(world, "stats")).out


async def test_clean_up_says_first_and_deletes_then(world: World) -> None:
    long_ago = world.clock.now() - timedelta(days=100)
    await write_run(world.database, at=long_ago)
    kept = await write_run(world.database, at=world.clock.now())
    dry = (await run(world, "clean-up", "--dry-run", "--json")).json
    assert dry == {"dry_run": True, "runs": 1, "by_kind": {"update-balances": 1}}
    assert await rows(world, "SELECT count(*) FROM steelyard.run") == [(2,)]
    done = await run(world, "clean-up")
    assert done.out == "1 runs that ended over 90 days ago deleted\n"
    assert await rows(world, "SELECT id FROM steelyard.run") == [(kept,)]
    assert (await run(world, "clean-up", "--json")).json["runs"] == 0
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert (
            await uow.fetchval(
                "SELECT count(*) FROM steelyard.audit WHERE action = 'runs.clean_up'"
            )
            == 2
        )
