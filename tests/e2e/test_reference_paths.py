"""The paths of the reference: its clients work here unchanged. Amounts are major units."""

import secrets

import pytest

from steelyard.access.model import Role
from tests.e2e.scene import Owned, Scene, assert_problem
from tests.e2e.server_kit import bearer, key

PREFIXES = pytest.mark.parametrize("prefix", ["/transactions", "/api/transactions"])


async def _request_topup(scene: Scene, owned: Owned, amount: str, prefix: str) -> dict[str, object]:
    body = b'{"amount": ' + amount.encode() + b"}"
    answer = await scene.server.call("POST", f"{prefix}/topup", content=body, headers=owned.as_user)
    assert answer.status_code == 201, answer.text
    found: dict[str, object] = answer.json()
    return found


@PREFIXES
async def test_a_topup_is_pending_until_an_admin_approves_it(scene: Scene, prefix: str) -> None:
    owned = await scene.own(10_000)
    asked = await _request_topup(scene, owned, "50.00", prefix)
    assert (asked["status"], asked["amount"], asked["balance"]) == ("pending", 50, 100)
    assert (await scene.balance(owned))["posted"] == 10_000
    path = f"{prefix}/topup/{asked['id']}"
    done = await scene.server.call(
        "PATCH", f"{path}/process", json={"status": "success"}, headers=bearer()
    )
    assert done.status_code == 200
    told = done.json()
    assert {name: told[name] for name in ("id", "type", "status", "amount", "balance", "seq")} == {
        "id": asked["id"],
        "type": "topup",
        "status": "success",
        "amount": 50,
        "balance": 150,
        "seq": 2,
    }
    assert (await scene.balance(owned))["posted"] == 15_000
    seen = await scene.server.call("GET", path, headers=owned.as_user)
    assert seen.json()["status"] == "success"


async def test_the_same_decision_again_is_answered_alike_and_another_is_refused(
    scene: Scene,
) -> None:
    owned = await scene.own(0)
    asked = await _request_topup(scene, owned, "12.5", "/transactions")
    path = f"/transactions/topup/{asked['id']}/process"
    for status in ("approved", "success", "approved"):
        answer = await scene.server.call("PATCH", path, json={"status": status}, headers=bearer())
        assert (answer.status_code, answer.json()["seq"]) == (200, 1)
        assert answer.json()["balance"] == 12.5
    refused = await scene.server.call("PATCH", path, json={"status": "failed"}, headers=bearer())
    assert_problem(refused, 409, "topup_already_processed")
    assert (await scene.balance(owned))["posted"] == 1250


async def test_a_rejected_topup_moves_nothing(scene: Scene) -> None:
    owned = await scene.own(0)
    asked = await _request_topup(scene, owned, "12.5", "/transactions")
    path = f"/transactions/topup/{asked['id']}/process"
    answer = await scene.server.call("PATCH", path, json={"status": "rejected"}, headers=bearer())
    assert (answer.status_code, answer.json()["status"], answer.json()["balance"]) == (
        200,
        "failed",
        0,
    )
    assert "seq" not in answer.json()
    assert (await scene.balance(owned))["seq"] == 0


async def test_who_asked_for_a_topup_cannot_approve_it(scene: Scene) -> None:
    owned = await scene.own(0)
    as_requester = bearer(f"admin-{owned.account}")
    asked = await scene.server.call(
        "POST",
        "/transactions/topup",
        json={"amount": 5, "accountId": owned.account},
        headers=as_requester,
    )
    assert asked.status_code == 201
    path = f"/transactions/topup/{asked.json()['id']}/process"
    refused = await scene.server.call(
        "PATCH", path, json={"status": "success"}, headers=as_requester
    )
    assert_problem(refused, 403, "requester_cannot_approve")
    by_service = await scene.server.call(
        "PATCH", path, json={"status": "success"}, headers=bearer("shop", Role.SERVICE)
    )
    assert_problem(by_service, 403, "forbidden")
    assert (await scene.balance(owned))["posted"] == 0


@PREFIXES
async def test_a_booking_is_paid_once_from_the_primary_account(scene: Scene, prefix: str) -> None:
    owned = await scene.own(20_000)
    headers = {**owned.as_user, **key(f"booking-{secrets.token_hex(4)}")}
    body = b'{"type": "booking", "amount": 49.50, "reference": "hotel-7"}'
    paid = await scene.server.call("POST", prefix, content=body, headers=headers)
    again = await scene.server.call("POST", prefix, content=body, headers=headers)
    assert (paid.status_code, again.status_code) == (201, 200)
    assert paid.content == again.content
    assert b'"amount":-49.5,"balance":150.5,' in paid.content
    told = paid.json()
    assert (told["type"], told["status"], told["reference"]) == ("booking", "success", "hotel-7")
    assert (await scene.balance(owned))["posted"] == 15_050


async def test_a_booking_beyond_the_balance_says_the_shortfall_in_major_units(scene: Scene) -> None:
    owned = await scene.own(12_050)
    body = {"type": "booking", "amount": 150, "reference": "hotel-8"}
    answer = await scene.server.call(
        "POST", "/transactions", json=body, headers={**owned.as_user, **key()}
    )
    problem = assert_problem(answer, 402, "insufficient_funds")
    assert (problem["required"], problem["current"], problem["shortfall"]) == (150, 120.5, 29.5)
    assert b'"shortfall":29.5' in answer.content


@PREFIXES
async def test_the_cached_balance_is_the_shortest_number(scene: Scene, prefix: str) -> None:
    path = f"{prefix}/balance/cached"
    for minor, text in ((15_050, b"150.5"), (15_000, b"150"), (15_055, b"150.55"), (0, b"0")):
        owned = await scene.own(minor)
        first = await scene.server.call("GET", path, headers=owned.as_user)
        assert first.content in (
            b'{"balance":' + text + b',"cached":true}',
            b'{"balance":' + text + b',"cached":false}',
        )
        second = await scene.server.call("GET", path, headers=owned.as_user)
        assert second.content == b'{"balance":' + text + b',"cached":true}'


async def test_a_cached_balance_is_never_behind_what_was_answered(scene: Scene) -> None:
    owned = await scene.own(10_000)
    for expected in (90, 80, 70):
        await scene.post(owned, "charges", {"amount": 1000})
        cached = await scene.server.call(
            "GET", "/transactions/balance/cached", headers=owned.as_user
        )
        assert cached.json() == {"balance": expected, "cached": True}


async def test_yen_have_no_decimals(scene: Scene) -> None:
    owned = await scene.own(1500, currency="JPY")
    cached = await scene.server.call("GET", "/transactions/balance/cached", headers=owned.as_user)
    assert cached.json()["balance"] == 1500
    refused = await scene.server.call(
        "POST", "/transactions/topup", content=b'{"amount": 1.5}', headers=owned.as_user
    )
    assert assert_problem(refused, 422, "invalid_input")["param"] == "amount"
