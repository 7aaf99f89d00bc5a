"""Runs over HTTP: followed with a public token, listed, cancelled and tried again by operators; a wall between tenants."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from steelyard.access.model import Role
from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.jobs.cancel_run import CANCELLED_CODE
from steelyard.jobs.model import Kind, RunRequest, State
from steelyard.jobs.request_run import request_run
from steelyard.runtime.database import Database
from steelyard.runtime.ids import RandomIds
from tests.e2e.scene import assert_problem
from tests.e2e.server_kit import Server, bearer
from tests.runs_kit import write_run
from tests.world import FreshDatabase

NOBODYS = Kind("of-another-release")
"""No process here works on it, so its runs stand still."""
TOKEN = "ab" * 16


@pytest_asyncio.fixture
async def database(shared_database: FreshDatabase) -> AsyncIterator[Database]:
    """The database behind the shared server."""
    opened = await Database.open(shared_database.app_url, pool_size=2)
    yield opened
    await opened.close()


async def status(
    server: Server, run: int | str, token: str = TOKEN, **headers: str
) -> tuple[int, dict[str, Any]]:
    """What a client that polls is told."""
    sent = headers or {"Authorization": f"Bearer {token}"}
    answer = await server.call("GET", f"/api/jobs/status?id={run}", headers=sent)
    return answer.status_code, answer.json()


def told(run: int, status: str, state: str, progress: int = 0) -> dict[str, Any]:
    return {"id": str(run), "status": status, "state": state, "progress": progress}


@pytest.mark.parametrize(
    ("state", "expected", "progress"),
    [
        (State.PENDING, "PENDING", 0),
        (State.RUNNING, "RUNNING", 0),
        (State.RETRYING, "RUNNING", 0),
        (State.COMPLETED, "COMPLETED", 100),
        (State.FAILED, "FAILED", 0),
        (State.CANCELLED, "FAILED", 0),
        (State.EXPIRED, "FAILED", 0),
        (State.SUPERSEDED, "FAILED", 0),
    ],
)
async def test_every_state_is_told_as_a_status_clients_know(
    server: Server, database: Database, state: State, expected: str, progress: int
) -> None:
    now = datetime.now(UTC)
    run = await write_run(database, at=now, state=state, token=TOKEN)
    done = {"result": {"success": True}} if state is State.COMPLETED else {}
    assert await status(server, run) == (
        200,
        {**told(run, expected, state, progress), **done},
    )


async def test_the_error_of_an_attempt_it_got_over_is_not_told_with_its_success(
    server: Server, database: Database
) -> None:
    now = datetime.now(UTC)
    run = await write_run(database, at=now, error="timeout", token=TOKEN)
    assert "error" not in (await status(server, run))[1]
    run = await write_run(database, at=now, state=State.RETRYING, error="timeout", token=TOKEN)
    assert (await status(server, run))[1]["error"] == {"code": "timeout", "message": "no"}


async def test_the_token_comes_in_the_header_or_in_the_address_and_stays_out_of_the_log(
    server: Server, database: Database
) -> None:
    token = "5ec3e7" * 5
    run = await write_run(database, at=datetime.now(UTC), token=token)
    path = f"/api/jobs/status?id={run}"
    for name in ("token", "publicAccessToken"):
        answer = await server.call("GET", f"{path}&{name}={token}", headers={})
        assert answer.status_code == 200, answer.text
        assert token not in answer.text
    for mistyped in (f"&token={token}", f"&publicAccessToken={token}"):
        answer = await server.call("GET", f"/api/jobs/status{mistyped}", headers={})
        assert_problem(answer, 404, "not_found")
    async with asyncio.timeout(10):  # lines are written some at a time
        while "/api/jobs/status&publicAccessToken=" not in server.log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert token not in server.log.read_text()


async def test_wrong_token_wrong_id_and_anothers_run_are_the_same_refusal(
    server: Server, database: Database
) -> None:
    now = datetime.now(UTC)
    run = await write_run(database, at=now, token=TOKEN)
    theirs = await write_run(database, at=now, token="their own", tenant=TenantId("other"))
    refusals = [
        (run, {"Authorization": "Bearer wrong"}),
        (theirs, {"Authorization": f"Bearer {TOKEN}"}),
        (10**15, {"Authorization": f"Bearer {TOKEN}"}),
        (theirs, bearer()),
        (theirs, bearer("ann", Role.USER)),
        (run, bearer("bob", Role.USER)),
        (10**15, bearer()),
    ]
    seen = set()
    for identifier, headers in refusals:
        answer = await server.call("GET", f"/api/jobs/status?id={identifier}", headers=headers)
        problem = assert_problem(answer, 404, "not_found")
        seen.add(
            answer.text.replace(problem["request_id"], "").replace(repr(str(identifier)), "ID")
        )
    assert len(seen) == 1
    nobody = await server.call("GET", f"/api/jobs/status?id={run}", headers={})
    assert_problem(nobody, 401, "unauthenticated")
    assert_problem(
        await server.call(
            "GET", f"/api/jobs/status?id={run}", headers={"Authorization": "Bearer a.b.c"}
        ),
        401,
        "unauthenticated",
    )


async def test_who_signed_in_follows_without_a_token(server: Server, database: Database) -> None:
    run = await write_run(database, at=datetime.now(UTC), subject="ann")
    for headers in (bearer(), bearer("ops", Role.OPERATOR), bearer("ann", Role.USER)):
        assert (await status(server, run, **headers))[0] == 200


async def test_operators_list_filter_and_see_only_their_tenants_runs(
    server: Server, database: Database
) -> None:
    now = datetime.now(UTC)
    subject = f"listed-{now.timestamp()}"
    made = [
        await write_run(database, at=now, subject=subject, state=state, error=error)
        for state, error in (
            (State.COMPLETED, None),
            (State.FAILED, "timeout"),
            (State.RUNNING, None),
        )
    ]
    theirs = await write_run(
        database, at=now, subject=subject, state=State.FAILED, tenant=TenantId("other")
    )

    async def listed(query: str, tenant: str = DEFAULT_TENANT) -> list[str]:
        headers = bearer("ops", Role.OPERATOR, tenant=tenant)
        answer = await server.call("GET", f"/api/runs?subject={subject}{query}", headers=headers)
        assert answer.status_code == 200, answer.text
        return [run["id"] for run in answer.json()["data"]]

    def texts(*runs: int) -> list[str]:
        return [str(run) for run in sorted(runs, reverse=True)]

    assert await listed("") == texts(*made)
    assert await listed("", "other") == texts(theirs)
    assert await listed("&state=failed,running") == texts(*made[1:])
    assert await listed("&state=failed&error_code=timeout") == texts(made[1])
    assert await listed("&kind=update-balances&state=completed") == texts(made[0])
    moment = now.isoformat().replace("+", "%2B")
    assert await listed(f"&from={moment}") == texts(*made)
    assert await listed(f"&to={moment}") == []
    first = await server.call("GET", f"/api/runs?subject={subject}&limit=2")
    following = first.json()["next_cursor"]
    rest = await server.call("GET", f"/api/runs?subject={subject}&limit=2&cursor={following}")
    assert [run["id"] for run in first.json()["data"] + rest.json()["data"]] == texts(*made)
    assert (first.json()["has_more"], rest.json()["has_more"]) == (True, False)
    for query in (
        "state=lost",
        "from=yesterday",
        "from=2026-01-01T00:00:00",
        "cursor=x",
        "limit=0",
    ):
        answer = await server.call("GET", f"/api/runs?{query}")
        assert_problem(answer, 422, "invalid_input")
    for method, path in (
        ("GET", f"/api/runs/{theirs}"),
        ("POST", f"/api/runs/{theirs}/cancel"),
        ("POST", f"/api/jobs/failed/{theirs}/requeue"),
        ("GET", "/api/runs/0"),
        ("GET", "/api/runs/abc"),
    ):
        assert_problem(await server.call(method, path), 404, "not_found")
    seen = (await server.call("GET", f"/api/runs/{made[1]}")).json()
    assert (seen["status"], seen["error"]) == ("FAILED", {"code": "timeout", "message": "no"})
    assert "token_hashes" not in seen


async def test_a_run_is_cancelled_once_and_on_record(server: Server, database: Database) -> None:
    async with database.unit_of_work(DEFAULT_TENANT) as uow:
        wanted = RunRequest("thing", wants_token=True)
        now = datetime.now(UTC)
        made = await request_run(uow, NOBODYS, wanted, now=now, ids=RandomIds())
    assert made.token is not None
    operator = bearer("ops", Role.OPERATOR)
    for outcome in ("cancelled", "ended"):
        answer = await server.call("POST", f"/api/runs/{made.run}/cancel", headers=operator)
        assert answer.json() == {"id": str(made.run), "outcome": outcome, "state": "cancelled"}
    code, seen = await status(server, made.run, made.token)
    assert (code, seen["status"], seen["state"]) == (200, "FAILED", "cancelled")
    assert seen["error"]["code"] == CANCELLED_CODE
    audit = (await server.call("GET", "/api/audit?limit=10")).json()["data"]
    lines = [line for line in audit if line["target"] == f"run:{made.run}"]
    assert [(line["action"], line["outcome"]) for line in lines] == [
        ("run.cancel", "ended"),
        ("run.cancel", "cancelled"),
    ]
    refused = await server.call("POST", f"/api/jobs/failed/{made.run}/requeue", headers=operator)
    assert_problem(refused, 409, "run_not_dead")


async def test_a_job_is_done_and_its_dead_letter_is_listed_and_tried_again(
    server: Server, database: Database
) -> None:
    verify = Kind("balance-verify-sync", attempts_max=1)
    async with database.unit_of_work(DEFAULT_TENANT) as uow:
        now = datetime.now(UTC)
        wanted = RunRequest("tenant", {"user_id": 7}, wants_token=True)
        bad = await request_run(uow, verify, wanted, now=now, ids=RandomIds())
        wanted = RunRequest("tenant", {"user_id": "nobody"}, wants_token=True)
        good = await request_run(uow, verify, wanted, now=now, ids=RandomIds())
    assert bad.token is not None
    assert good.token is not None
    done = await until_ended(server, good.run, good.token)
    assert done["status"] == "COMPLETED"
    assert {name: done["result"][name] for name in ("success", "clean", "checked", "fixed")} == {
        "success": True,
        "clean": True,
        "checked": 0,
        "fixed": 0,
    }
    failed = await until_ended(server, bad.run, bad.token)
    assert (failed["status"], failed["result"]["success"]) == ("FAILED", False)
    assert failed["error"]["code"] == "invalid_input"
    letters = await server.call("GET", "/api/jobs/failed?kind=balance-verify-sync")
    assert [run["id"] for run in letters.json()["data"]] == [str(bad.run)]
    theirs = await server.call("GET", "/api/jobs/failed", headers=bearer(tenant="other"))
    assert theirs.json()["data"] == []
    answer = await server.call("POST", f"/api/jobs/failed/{bad.run}/requeue")
    assert answer.json() == {"id": str(bad.run), "state": "retrying"}
    again = await until_ended(server, bad.run, bad.token)
    assert again["status"] == "FAILED"
    stats = (await server.call("GET", "/api/jobs/stats")).json()
    [figures] = [one for one in stats["data"] if one["kind"] == "balance-verify-sync"]
    assert (figures["waiting"], figures["active"], figures["failed"]) == (0, 0, 1)
    assert figures["completed"] >= 1
    assert 0 <= figures["p50_s"] <= figures["p95_s"]
    other = (await server.call("GET", "/api/jobs/stats", headers=bearer(tenant="other"))).json()
    [figures] = [one for one in other["data"] if one["kind"] == "balance-verify-sync"]
    assert (figures["completed"], figures["failed"]) == (0, 0)


async def until_ended(server: Server, run: int, token: str) -> dict[str, Any]:
    """Poll as a client does."""
    async with asyncio.timeout(30):
        while True:
            code, seen = await status(server, run, token)
            assert code == 200, seen
            if seen["status"] in ("COMPLETED", "FAILED"):
                return seen
            await asyncio.sleep(0.1)
