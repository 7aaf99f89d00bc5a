"""Accounts, balances, changes and transactions through the API."""

import secrets

from steelyard.access.model import Role
from tests.e2e.scene import Scene, assert_problem
from tests.e2e.server_kit import bearer


async def test_an_account_opens_once_however_often_its_reference_is_sent(scene: Scene) -> None:
    owned = await scene.own()
    reference = f"crm-{secrets.token_hex(4)}"
    body = {"user": owned.user, "currency": "GBP", "reference": reference, "floor": -500}
    first = await scene.server.call("POST", "/api/accounts", json=body, headers=bearer())
    again = await scene.server.call("POST", "/api/accounts", json=body, headers=bearer())
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    told = first.json()
    assert (told["user"], told["floor"], told["currency"], told["digits"]) == (
        owned.user,
        -500,
        "GBP",
        2,
    )
    other = await scene.own()
    clash = await scene.server.call(
        "POST", "/api/accounts", json={**body, "user": other.user}, headers=bearer()
    )
    assert assert_problem(clash, 409, "account_exists")["account"] == told["account"]


async def test_accounts_open_in_bulk_all_or_none(scene: Scene) -> None:
    owned = await scene.own()
    mark = secrets.token_hex(4)
    accounts = [
        {"user": owned.user, "currency": "GBP", "reference": f"{mark}-{number}"}
        for number in range(1000)
    ]
    first = await scene.server.call(
        "POST", "/api/accounts/bulk", json={"accounts": accounts}, headers=bearer()
    )
    assert first.status_code == 200
    assert all(row["opened"] for row in first.json()["accounts"])
    again = await scene.server.call(
        "POST", "/api/accounts/bulk", json={"accounts": accounts[:3]}, headers=bearer()
    )
    assert [row["opened"] for row in again.json()["accounts"]] == [False] * 3
    before = await scene.written()
    bad = [{"user": owned.user, "currency": "GBP"}, {"user": "nobody", "currency": "GBP"}]
    refused = await scene.server.call(
        "POST", "/api/accounts/bulk", json={"accounts": bad}, headers=bearer()
    )
    assert_problem(refused, 404, "not_found")
    assert await scene.written() == before


async def test_pages_of_accounts_hold_each_account_once(scene: Scene) -> None:
    owned = await scene.own()
    body = {"user": owned.user, "currency": "GBP"}
    for _ in range(6):
        await scene.server.call("POST", "/api/accounts", json=body, headers=bearer())
    seen: list[str] = []
    path = f"/api/accounts?user={owned.user}&limit=3"
    cursor = ""
    while True:
        page = (await scene.server.call("GET", path + cursor, headers=bearer())).json()
        seen += [account["account"] for account in page["data"]]
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) == 7
    own = await scene.server.call("GET", "/api/accounts?limit=500", headers=owned.as_user)
    assert [account["account"] for account in own.json()["data"]] == seen


async def test_a_raised_floor_suspends_and_a_lowered_one_ends_it(scene: Scene) -> None:
    owned = await scene.own(1000)
    path = f"/api/accounts/{owned.account}"
    raised = await scene.server.call("PATCH", path, json={"floor": 1001}, headers=bearer())
    assert raised.json()["suspended"] == "below_floor"
    assert_problem(await scene.send(owned, "charges", {"amount": 1}), 423, "account_suspended")
    lowered = await scene.server.call("PATCH", path, json={"floor": -100}, headers=bearer())
    assert lowered.json()["suspended"] is None
    assert (await scene.post(owned, "charges", {"amount": 1100}))["balance_after"] == -100


async def test_changes_since_a_position_are_gapless_and_in_order(scene: Scene) -> None:
    owned = await scene.own(1000)
    for amount in (1, 2, 3, 4):
        await scene.post(owned, "charges", {"amount": amount, "description": f"nr {amount}"})
    path = f"/api/accounts/{owned.account}/changes"
    page = (
        await scene.server.call("GET", f"{path}?after_seq=1&limit=3", headers=owned.as_user)
    ).json()
    assert [change["seq"] for change in page["data"]] == [2, 3, 4]
    assert [change["balance_after"] for change in page["data"]] == [999, 997, 994]
    assert page["data"][0]["details"] == {"description": "nr 1"}
    assert (page["last_seq"], page["has_more"]) == (4, True)
    rest = (await scene.server.call("GET", f"{path}?after_seq=4", headers=owned.as_user)).json()
    assert ([change["seq"] for change in rest["data"]], rest["has_more"]) == ([5], False)
    none = (await scene.server.call("GET", f"{path}?after_seq=5", headers=owned.as_user)).json()
    assert (none["data"], none["last_seq"]) == ([], 5)


async def test_history_and_transactions_go_from_new_to_old_without_repeats(scene: Scene) -> None:
    owned = await scene.own(1000)
    for _ in range(4):
        await scene.post(owned, "charges", {"amount": 10})
    for path in (f"/api/accounts/{owned.account}/history", "/api/transactions"):
        seqs: list[int] = []
        query = "?limit=2"
        while True:
            page = (await scene.server.call("GET", path + query, headers=owned.as_user)).json()
            seqs += [item["seq"] for item in page["data"]]
            if not page["has_more"]:
                break
            query = f"?limit=2&cursor={page['next_cursor']}"
        assert seqs == [5, 4, 3, 2, 1]


async def test_transactions_of_all_accounts_of_a_user_are_one_list(scene: Scene) -> None:
    owned = await scene.own(1000)
    second = await scene.server.call(
        "POST", "/api/accounts", json={"user": owned.user, "currency": "JPY"}, headers=bearer()
    )
    other = second.json()["account"]
    await scene.server.call("POST", f"/api/accounts/{other}/recharges", json={"amount": 7})
    await scene.post(owned, "charges", {"amount": 10})
    answer = await scene.server.call(
        "GET", f"/api/transactions?user_id={owned.user}&source=held", headers=bearer()
    )
    found = [(item["account"], item["amount"], item["currency"]) for item in answer.json()["data"]]
    assert found == [
        (owned.account, -10, "GBP"),
        (other, 7, "JPY"),
        (owned.account, 1000, "GBP"),
    ]
    mirrored = await scene.server.call(
        "GET", f"/api/transactions?user_id={owned.user}&source=mirrored", headers=bearer()
    )
    assert mirrored.json()["data"] == []


async def test_a_user_sees_its_own_balance_and_no_other(scene: Scene) -> None:
    owned, other = await scene.own(1234), await scene.own(1)
    mine = await scene.server.call("GET", "/api/balance", headers=owned.as_user)
    assert (mine.json()["account"], mine.json()["available"]) == (owned.account, 1234)
    for path in (
        f"/api/accounts/{other.account}",
        f"/api/accounts/{other.account}/balance",
        f"/api/accounts/{other.account}/changes",
        f"/api/accounts/{other.account}/history",
        f"/api/transactions/{other.account}-1",
        f"/api/transactions?account_id={other.account}",
        f"/api/transactions?user_id={other.user}",
        f"/api/accounts?user={other.user}",
    ):
        assert_problem(
            await scene.server.call("GET", path, headers=owned.as_user), 404, "not_found"
        )


async def test_another_tenants_ids_do_not_exist_here(scene: Scene) -> None:
    theirs = await scene.own(500, tenant="other")
    before = await scene.written()
    ours = bearer("boss", Role.ADMIN)
    for path in (
        f"/api/accounts/{theirs.account}",
        f"/api/accounts/{theirs.account}/balance",
        f"/api/accounts/{theirs.account}/changes",
        f"/api/accounts/{theirs.account}/history",
        f"/api/transactions/{theirs.account}-1",
        f"/api/transactions?account_id={theirs.account}",
        f"/api/users/{theirs.user}",
    ):
        assert_problem(await scene.server.call("GET", path, headers=ours), 404, "not_found")
    for what, body in (
        ("charges", {"amount": 1}),
        ("charges", {"amount": 1, "currency": "GBP"}),
        ("recharges", {"amount": 1}),
        ("holds", {"amount": 1}),
        ("reversals", {"transaction": f"{theirs.account}-1"}),
        ("adjustments", {"amount": 1}),
    ):
        path = f"/api/accounts/{theirs.account}/{what}"
        answer = await scene.server.call("POST", path, json=body)
        assert_problem(answer, 404, "not_found")
    assert await scene.written() == before


async def test_a_book_opens_once(scene: Scene) -> None:
    first = await scene.server.call(
        "POST", "/api/books", json={"currency": "ZMW"}, headers=bearer()
    )
    again = await scene.server.call(
        "POST", "/api/books", json={"currency": "ZMW"}, headers=bearer()
    )
    assert first.status_code in (200, 201)
    assert (again.status_code, again.json()) == (200, {"currency": "ZMW", "digits": 2})
