"""The plain WebSocket over a real server: what a client hears, and that it hears nothing else."""

from tests.e2e.scene import Scene
from tests.e2e.socket_kit import connected, token_of


async def test_a_charge_over_http_is_heard_in_order_on_the_users_socket(scene: Scene) -> None:
    owned = await scene.own(10_000)
    async with connected(scene.server, token=token_of(owned)) as socket:
        initial = await socket.next()
        assert initial == {
            "event": "balance_initial",
            "balance": 100,
            "accountId": owned.account,
            "currency": "GBP",
            "seq": 1,
            "posted": 100,
            "held": 0,
            "resumed": False,
        }
        posted = await scene.post(owned, "charges", {"amount": 2_550})
        updated, completed = await socket.next(), await socket.next()
        assert updated.pop("timestamp") == completed.pop("timestamp") == posted["posted_at"]
        common = {
            "transactionId": f"{owned.account}-2",
            "transactionType": "charge",
            "amount": -25.5,
            "newBalance": 74.5,
            "accountId": owned.account,
            "currency": "GBP",
            "seq": 2,
        }
        assert completed == {"event": "transaction_completed", **common}
        assert updated == {
            "event": "balance_updated",
            "previousBalance": 100,
            "prevSeq": 1,
            "posted": 74.5,
            "held": 0,
            **common,
        }
        await socket.quiet()
