"""Schedules over HTTP and at the terminal: seen, changed, begun by the server itself."""

import asyncio
import json
import time
from datetime import datetime
from typing import Any

import pytest

from steelyard.access.model import Role
from steelyard.runtime.clock import SystemClock
from tests.e2e.cli_kit import Run, command
from tests.e2e.scene import Scene, assert_problem
from tests.e2e.server_kit import bearer
from tests.world import World

NIGHTLY = {"kind": "clean-up", "cron": "30 2 * * *", "zone": "Africa/Lusaka"}


async def call(
    scene: Scene, method: str, path: str, body: Any = None, role: Role = Role.ADMIN
) -> Any:
    """Ask the server."""
    headers = bearer("ada", role)
    return await scene.server.call(method, f"/api/schedules{path}", json=body, headers=headers)


async def test_a_tenant_sees_its_schedules_with_their_next_ticks(scene: Scene) -> None:
    answer = await call(scene, "GET", "", role=Role.OPERATOR)
    assert answer.status_code == 200
    told = {one["name"]: one for one in answer.json()["data"]}
    assert {"balance-verify-sync", "balance-rebuild-monthly", "clean-up"} <= told.keys()
    nightly = told["balance-verify-sync"]
    assert (nightly["cron"], nightly["in_zone"], nightly["enabled"]) == ("0 2 * * *", "UTC", True)
    assert [one["at"][11:] for one in nightly["next"]] == ["02:00:00Z"] * 3
    one = await call(scene, "GET", "/balance-verify-sync")
    assert one.json() == nightly


async def test_a_schedule_is_made_changed_switched_run_and_removed(scene: Scene) -> None:
    made = await call(scene, "PUT", "/nightly", NIGHTLY)
    assert made.status_code == 201, made.text
    tick = made.json()["next"][0]
    assert tick["local"].endswith("T02:30:00+02:00")
    assert tick["at"].endswith("T00:30:00Z")
    again = await call(scene, "PUT", "/nightly", {**NIGHTLY, "hours": "Mon-Fri 02:00-03:00"})
    assert (again.status_code, again.json()["hours"]) == (200, "mon-fri 02:00-03:00")
    off = await call(scene, "PATCH", "/nightly", {"enabled": False, "every_s": 3600, "hours": None})
    told = off.json()
    assert (told["enabled"], told["next"], told["cron"], told["hours"]) == (False, [], None, None)
    assert told["zone"] == "Africa/Lusaka"
    begun = await call(scene, "POST", "/nightly/run")
    assert begun.status_code == 202
    run = begun.json()
    assert run["id"] == run["jobId"]
    query = f"/api/jobs/status?id={run['id']}&token={run['publicAccessToken']}"
    status = await scene.server.call("GET", query)
    assert (status.status_code, status.json()["id"]) == (200, run["id"])
    removed = await call(scene, "DELETE", "/nightly")
    assert (removed.status_code, removed.content) == (204, b"")
    assert_problem(await call(scene, "GET", "/nightly"), 404, "not_found")


@pytest.mark.parametrize(
    ("param", "change"),
    [
        ("cron", {"cron": "0 2 * *"}),
        ("cron", {"cron": "0 2 30 2 *"}),
        ("cron", {"cron": None}),
        ("every_s", {"cron": None, "every_s": 1}),
        ("zone", {"zone": "Zambia"}),
        ("hours", {"hours": "nine to five"}),
        ("hours", {"hours": "09:00-17:00"}),
        ("enabled", {"enabled": "no"}),
        ("minute", {"minute": 5}),
    ],
)
async def test_a_bad_value_is_a_422_that_names_it_and_nothing_is_written(
    scene: Scene, param: str, change: dict[str, Any]
) -> None:
    answer = await call(scene, "PUT", "/refused", {**NIGHTLY, **change})
    assert assert_problem(answer, 422, "invalid_input")["param"] == param
    assert_problem(await call(scene, "GET", "/refused"), 404, "not_found")


async def test_an_unknown_kind_is_told_with_those_there_are(scene: Scene) -> None:
    answer = await call(scene, "PUT", "/refused", {**NIGHTLY, "kind": "nothing"})
    problem = assert_problem(answer, 422, "unknown_job_kind")
    assert "clean-up" in problem["known"]


async def test_the_server_begins_what_is_due_once_and_its_worker_does_it(scene: Scene) -> None:
    assert (await call(scene, "PUT", "/due", NIGHTLY)).status_code == 201
    planned = datetime.fromisoformat("2026-01-01T00:30:00Z")
    await scene.superuser.execute(
        "UPDATE steelyard.schedule SET next_at = $1 WHERE name = 'due'", planned
    )
    begun = time.monotonic()
    runs: list[Any] = []
    while not (runs and runs[0]["finished_at"]):
        assert time.monotonic() - begun < 30, runs
        await asyncio.sleep(0.05)
        runs = await scene.superuser.fetch(
            "SELECT state, planned_for, finished_at FROM steelyard.run WHERE schedule = 'due'"
        )
    assert [(run["state"], run["planned_for"]) for run in runs] == [("completed", planned)]
    told = (await call(scene, "DELETE", "/due")).status_code
    assert told == 204


# --- at the terminal ---------------------------------------------------------------------------


async def run(world: World, *arguments: str) -> Run:
    """Run a command on the world's database."""
    url = world.fresh.app_url
    return await asyncio.to_thread(command, *arguments, STEELYARD_DATABASE_URL=url)


async def test_schedules_are_made_and_moved_at_the_terminal(world: World) -> None:
    made = await run(
        world, "schedule", "set", "report", "--kind", "clean-up", "--every", "6h", "--hours",
        "08:00-20:00", "--zone", "Africa/Lusaka", "--arguments", '{"days": 3}', "--json",
    )  # fmt: skip
    told: Any = made.json
    assert (told["every_s"], told["arguments"], told["family"]) == (21_600, {"days": 3}, "own")
    assert all(8 <= int(one["local"][11:13]) <= 20 for one in told["next"])
    changed = await run(
        world, "schedule", "set", "report", "--cron", "@daily", "--zone", "tenant", "--hours", "all"
    )
    assert "0 0 * * *" in changed.out
    assert "UTC (the tenant's)" in changed.out
    moved = await run(world, "tenant", "set", "default", "--zone", "Asia/Kathmandu")
    assert moved.out == "default is in Asia/Kathmandu; 4 schedules tick by it\n"
    shown: Any = (await run(world, "schedule", "show", "report", "--json")).json
    assert [one["at"][11:16] for one in shown["next"]] == ["18:15"] * 3
    assert [one["local"][11:] for one in shown["next"]] == ["00:00:00+05:45"] * 3
    off = await run(world, "schedule", "off", "report")
    assert off.out.endswith("It is switched off.\n")
    listed = await run(world, "schedule", "list")
    assert listed.code == 0
    names = [line.split()[0] for line in listed.out.splitlines()[1:]]
    assert names == ["balance-rebuild-monthly", "balance-verify-sync", "clean-up", "report"]
    on: Any = (await run(world, "schedule", "on", "report", "--json")).json
    assert on["enabled"] is True
    queued = await run(world, "schedule", "run", "report")
    assert queued.out.startswith("queued run ")
    assert (await run(world, "schedule", "run", "report")).out.startswith("shares a run")
    assert (await run(world, "schedule", "remove", "report")).out == "removed report\n"
    admin = await world.as_superuser()
    actions = [
        row["action"]
        for row in await admin.fetch("SELECT action, actor FROM steelyard.audit ORDER BY id")
        if row["actor"] == "system:cli"
    ]
    [job] = await admin.fetch("SELECT kind, subject FROM steelyard.job")
    await admin.close()
    assert tuple(job) == ("clean-up", "tenant")
    assert actions == [
        "schedule.create",
        "schedule.change",
        "tenant.zone",
        "schedule.change",
        "schedule.change",
        "schedule.run",
        "schedule.run",
        "schedule.remove",
    ]
    assert SystemClock().now() < datetime.fromisoformat(on["next"][0]["at"])


async def test_what_cannot_be_set_is_said_with_its_exit_code(world: World) -> None:
    for expected, arguments in (
        ((3, "not_found"), ("show", "nothing")),
        ((3, "not_found"), ("set", "nothing", "--cron", "@daily")),
        ((2, "invalid_input"), ("set", "clean-up", "--zone", "Atlantis")),
        ((2, "invalid_input"), ("remove", "clean-up")),
        ((2, "usage"), ("set", "clean-up", "--every", "often")),
        ((2, "usage"), ("set", "clean-up", "--arguments", "[1]")),
    ):
        ended = await run(world, "schedule", *arguments, "--json")
        assert (ended.code, json.loads(ended.err)["code"]) == expected, arguments
    wrong = await run(world, "tenant", "set", "default", "--zone", "Atlantis", "--json")
    assert (wrong.code, wrong.problem["param"]) == (2, "time_zone")
