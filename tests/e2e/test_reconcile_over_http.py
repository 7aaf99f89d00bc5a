"""Proof and repair over HTTP."""

from collections.abc import AsyncIterator

import pytest_asyncio

from steelyard.access.model import Role
from tests.e2e.scene import Owned, Scene, assert_problem
from tests.e2e.server_kit import bearer


@pytest_asyncio.fixture
async def falsified(scene: Scene) -> AsyncIterator[Owned]:
    """An account that stores 50 too much; put right afterwards whatever the test did."""
    owned = await scene.own(1_000)
    await scene.superuser.execute("SET session_replication_role = replica")
    await scene.superuser.execute(
        "UPDATE steelyard.account SET posted = 1050 WHERE id = $1", int(owned.account)
    )
    yield owned
    await scene.superuser.execute(
        "UPDATE steelyard.account SET posted = 1000 WHERE id = $1", int(owned.account)
    )
    await scene.superuser.execute("SET session_replication_role = origin")


async def test_verify_reports_and_changes_nothing(scene: Scene, falsified: Owned) -> None:
    answer = await scene.server.call(
        "POST", "/api/reconcile/verify", json={}, headers=bearer(role=Role.OPERATOR)
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    [found] = [one for one in told["details"] if one["account"] == falsified.account]
    assert (found["fault"], found["stored"], found["actual"], found["difference"]) == (
        "balance",
        1050,
        1000,
        50,
    )
    assert (told["clean"], told["fixed"], told["touched"]) == (False, 0, [])
    assert (await scene.balance(falsified))["posted"] == 1050


async def test_discrepancies_come_largest_first(scene: Scene, falsified: Owned) -> None:
    answer = await scene.server.call(
        "GET", "/api/reconcile/discrepancies?limit=1", headers=bearer(role=Role.OPERATOR)
    )
    told = answer.json()
    assert (told["found"], len(told["data"]), told["data"][0]["difference"]) == (2, 1, 50)


async def test_fix_repairs_one_user_and_is_audited_in_the_callers_name(
    scene: Scene, falsified: Owned
) -> None:
    body = {"user_id": falsified.user}
    answer = await scene.server.call(
        "POST", "/api/reconcile/fix", json=body, headers=bearer("the-admin", Role.ADMIN)
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["checked"], told["fixed"], told["clean"], told["errors"]) == (1, 1, True, [])
    assert (await scene.balance(falsified))["posted"] == 1000
    audited = await scene.superuser.fetchrow(
        "SELECT * FROM steelyard.audit WHERE action = 'reconcile.fix' AND target = $1",
        falsified.account,
    )
    assert audited is not None
    assert (audited["actor"], audited["actor_role"], audited["request_id"]) == (
        "the-admin",
        "admin",
        answer.headers["x-request-id"],
    )


async def test_operator_may_not_fix_and_nobody_else_may_look(scene: Scene) -> None:
    as_operator = await scene.server.call(
        "POST", "/api/reconcile/fix", json={}, headers=bearer(role=Role.OPERATOR)
    )
    assert_problem(as_operator, 403, "forbidden")
    for role in (Role.USER, Role.SERVICE):
        refused = await scene.server.call(
            "POST", "/api/reconcile/verify", json={}, headers=bearer(role=role)
        )
        assert_problem(refused, 403, "forbidden")


async def test_bad_input_is_refused(scene: Scene) -> None:
    for body in (
        {"depth": "deep"},
        {"user_id": 5},
        {"surplus": 1},
        {"incremental": True, "user_id": "u"},
    ):
        answer = await scene.server.call(
            "POST", "/api/reconcile/verify", json=body, headers=bearer(role=Role.OPERATOR)
        )
        assert_problem(answer, 422, "invalid_input")


async def test_incremental_proves_the_tenant(scene: Scene) -> None:
    await scene.own(500)
    answer = await scene.server.call(
        "POST",
        "/api/reconcile/verify",
        json={"incremental": True},
        headers=bearer(role=Role.OPERATOR),
    )
    assert (answer.status_code, answer.json()["clean"]) == (200, True)
