"""Money through the API: every route that moves it does what it says, and says what it did."""

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
