"""Money through the API: every route that moves it does what it says, and says what it did."""

import asyncio

from tests.e2e.scene import Scene, assert_problem
from tests.e2e.server_kit import bearer, key


async def test_a_charge_takes_the_amount_and_tells_the_standing_after_it(scene: Scene) -> None:
    owned = await scene.own(5000)
    answer = await scene.send(owned, "charges", {"amount": 1050, "currency": "GBP"})
    assert answer.status_code == 201
    told = answer.json()
    posted_at = told.pop("posted_at")
    assert posted_at.endswith("Z")
    assert told == {
        "transaction": f"{owned.account}-2",
        "account": owned.account,
        "kind": "charge",
        "amount": -1050,
        "held_amount": 0,
        "currency": "GBP",
        "balance_after": 3950,
        "held_after": 0,
        "available_after": 3950,
        "seq": 2,
    }
    balance = await scene.balance(owned)
    assert (balance["posted"], balance["available"], balance["seq"]) == (3950, 3950, 2)
    assert balance["suspended"] is None


async def test_a_repeated_charge_answers_the_same_document_and_posts_once(scene: Scene) -> None:
    owned = await scene.own(5000)
    body = {"amount": 700, "reference_model": "order", "reference_id": "A-17"}
    first = await scene.send(owned, "charges", body, with_key=f"once-{owned.account}")
    again = await scene.send(owned, "charges", body, with_key=f"once-{owned.account}")
    assert (first.status_code, again.status_code) == (201, 200)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert (await scene.balance(owned))["posted"] == 4300


async def test_twenty_requests_at_once_with_one_key_give_one_posting(scene: Scene) -> None:
    owned = await scene.own(5000)
    name = f"burst-{owned.account}"
    answers = await asyncio.gather(
        *(scene.send(owned, "charges", {"amount": 100}, with_key=name) for _ in range(20))
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 19 + [201]
    assert len({answer.content for answer in answers}) == 1
    assert (await scene.balance(owned))["posted"] == 4900


async def test_fifty_charges_at_once_take_exactly_what_was_answered(scene: Scene) -> None:
    owned = await scene.own(1000)
    answers = await asyncio.gather(
        *(scene.send(owned, "charges", {"amount": 30}) for _ in range(50))
    )
    accepted = [answer for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code == 402]
    assert (len(accepted), len(refused)) == (33, 17)
    assert sorted(answer.json()["seq"] for answer in accepted) == list(range(2, 35))
    assert (await scene.balance(owned))["posted"] == 10


async def test_a_charge_beyond_the_balance_says_what_is_missing_and_changes_nothing(
    scene: Scene,
) -> None:
    owned = await scene.own(500)
    before = await scene.written()
    problem = assert_problem(
        await scene.send(owned, "charges", {"amount": 620}), 402, "insufficient_funds"
    )
    assert (problem["required"], problem["current"], problem["shortfall"]) == (620, 500, 120)
    assert problem["currency"] == "GBP"
    assert problem["retryable"] is False
    assert await scene.written() == before


async def test_a_hold_is_captured_in_part_and_the_rest_is_given_back(scene: Scene) -> None:
    owned = await scene.own(5000)
    hold = await scene.post(owned, "holds", {"amount": 2000, "expires_in_s": 3600})
    assert (hold["kind"], hold["amount"], hold["held_amount"]) == ("hold", 0, 2000)
    assert (hold["held_after"], hold["available_after"]) == (2000, 3000)
    captured = await scene.post(owned, f"holds/{hold['transaction']}/capture", {"amount": 1500})
    assert (captured["amount"], captured["held_amount"]) == (-1500, -2000)
    assert (captured["balance_after"], captured["held_after"]) == (3500, 0)
    again = await scene.send(owned, f"holds/{hold['transaction']}/release", {})
    assert_problem(again, 409, "hold_not_open")


async def test_a_released_hold_gives_everything_back(scene: Scene) -> None:
    owned = await scene.own(5000)
    hold = await scene.post(owned, "holds", {"amount": 5000})
    assert_problem(await scene.send(owned, "charges", {"amount": 1}), 402, "insufficient_funds")
    released = await scene.server.call(
        "POST", f"/api/accounts/{owned.account}/holds/{hold['transaction']}/release"
    )
    assert released.status_code == 201
    assert released.json()["available_after"] == 5000


async def test_more_than_a_hold_cannot_be_captured(scene: Scene) -> None:
    owned = await scene.own(5000)
    hold = await scene.post(owned, "holds", {"amount": 100})
    answer = await scene.send(owned, f"holds/{hold['transaction']}/capture", {"amount": 101})
    assert_problem(answer, 422, "capture_exceeds_hold")


async def test_an_expired_hold_is_given_back_by_itself(scene: Scene) -> None:
    owned = await scene.own(900)
    await scene.post(owned, "holds", {"amount": 900, "expires_in_s": 1})
    for _ in range(100):
        balance = await scene.balance(owned)
        if not balance["held"]:
            break
        await asyncio.sleep(0.1)
    assert (balance["available"], balance["seq"]) == (900, 3)


async def test_a_transfer_moves_money_between_two_accounts_once(scene: Scene) -> None:
    source, target = await scene.own(1000), await scene.own()
    moved = await scene.post(source, "transfers", {"amount": 400, "to_account": target.account})
    assert (moved["amount"], moved["balance_after"]) == (-400, 600)
    assert moved["to_account"] == target.account
    assert (await scene.balance(target))["posted"] == 400
    answer = await scene.server.call("GET", f"/api/transactions/{target.account}-1")
    received = answer.json()
    assert (received["amount"], received["transaction"]) == (400, moved["transaction"])
    seen = await scene.server.call(
        "GET", f"/api/transactions/{moved['transaction']}", headers=target.as_user
    )
    assert (seen.json()["account"], seen.json()["amount"]) == (target.account, 400)


async def test_transfers_to_itself_or_another_currency_are_refused(scene: Scene) -> None:
    owned, yen = await scene.own(1000), await scene.own(currency="JPY")
    same = await scene.send(owned, "transfers", {"amount": 1, "to_account": owned.account})
    assert_problem(same, 422, "same_account")
    other = await scene.send(owned, "transfers", {"amount": 1, "to_account": yen.account})
    assert_problem(other, 422, "currency_mismatch")


async def test_a_charge_is_reversed_in_parts_up_to_the_whole(scene: Scene) -> None:
    owned = await scene.own(1000)
    charge = await scene.post(owned, "charges", {"amount": 600})
    of = {"transaction": charge["transaction"]}
    part = await scene.post(owned, "reversals", {**of, "amount": 200})
    assert (part["amount"], part["balance_after"]) == (200, 600)
    too_much = await scene.send(owned, "reversals", {**of, "amount": 401})
    assert_problem(too_much, 422, "reversal_exceeds_transaction")
    rest = await scene.post(owned, "reversals", of)
    assert (rest["amount"], rest["balance_after"]) == (400, 1000)
    assert_problem(await scene.send(owned, "reversals", of), 409, "already_reversed")


async def test_a_forced_reversal_suspends_and_a_recharge_ends_it(scene: Scene) -> None:
    owned = await scene.own()
    recharge = await scene.post(owned, "recharges", {"amount": 500})
    await scene.post(owned, "charges", {"amount": 400})
    of = {"transaction": recharge["transaction"]}
    assert_problem(await scene.send(owned, "reversals", of), 402, "insufficient_funds")
    forced = await scene.post(owned, "reversals", {**of, "force": True})
    assert forced["balance_after"] == -400
    assert_problem(await scene.send(owned, "charges", {"amount": 1}), 423, "account_suspended")
    assert_problem(await scene.send(owned, "holds", {"amount": 1}), 423, "account_suspended")
    await scene.post(owned, "recharges", {"amount": 450})
    assert (await scene.post(owned, "charges", {"amount": 50}))["balance_after"] == 0


async def test_refunds_and_adjustments_change_the_balance_by_what_they_say(scene: Scene) -> None:
    owned = await scene.own(1000)
    assert (await scene.post(owned, "refunds", {"amount": 50}))["balance_after"] == 1050
    assert (await scene.post(owned, "adjustments", {"amount": -60}))["balance_after"] == 990
    audit = await scene.server.call("GET", "/api/audit?limit=5")
    acts = [(line["action"], line["target"]) for line in audit.json()["data"]]
    assert ("ledger.adjust", f"account:{owned.account}") in acts


async def test_keys_are_the_tenants_own(scene: Scene) -> None:
    ours, theirs = await scene.own(100), await scene.own(100, tenant="other")
    name = f"shared-{ours.account}"
    one = await scene.send(ours, "charges", {"amount": 10}, with_key=name)
    two = await scene.send(theirs, "charges", {"amount": 20}, with_key=name)
    assert (one.status_code, two.status_code) == (201, 201)


async def test_a_key_used_for_another_body_is_refused_and_the_first_outcome_stays(
    scene: Scene,
) -> None:
    owned = await scene.own(1000)
    name = f"reused-{owned.account}"
    await scene.send(owned, "charges", {"amount": 100}, with_key=name)
    before = await scene.written()
    for what, body in (
        ("charges", {"amount": 101}),
        ("charges", {"amount": 100, "description": "x"}),
        ("recharges", {"amount": 100}),
        ("holds", {"amount": 100}),
    ):
        answer = await scene.send(owned, what, body, with_key=name)
        assert_problem(answer, 409, "idempotency_conflict")
    assert await scene.written() == before


async def test_a_refused_charge_leaves_its_key_free(scene: Scene) -> None:
    owned = await scene.own(100)
    name = f"later-{owned.account}"
    refused = await scene.send(owned, "charges", {"amount": 150}, with_key=name)
    assert_problem(refused, 402, "insufficient_funds")
    await scene.post(owned, "recharges", {"amount": 100})
    accepted = await scene.send(owned, "charges", {"amount": 150}, with_key=name)
    assert accepted.status_code == 201


async def test_money_without_a_key_or_with_one_of_ours_does_not_move(scene: Scene) -> None:
    owned = await scene.own(100)
    path, before = f"/api/accounts/{owned.account}/charges", await scene.written()
    none = await scene.server.call("POST", path, json={"amount": 1}, headers=bearer())
    assert_problem(none, 400, "idempotency_key_required")
    for bad in ("steelyard/topup/1", "x" * 256, "tab\tin it"):
        headers = {**bearer(), **key(bad)}
        answer = await scene.server.call("POST", path, json={"amount": 1}, headers=headers)
        assert assert_problem(answer, 422, "invalid_input")["param"] == "Idempotency-Key"
    assert await scene.written() == before
