"""The npm `wscat` against the plain WebSocket, by the command of the reference."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from steelyard.access.model import Role
from tests.browser.on_screen import user_token
from tests.browser.wscat import Wscat
from tests.e2e.scene import Scene
from tests.e2e.server_kit import bearer, token

Run = Callable[[str], Awaitable[Wscat]]


def address(scene: Scene, given: str) -> str:
    """Return the address of the reference with a token."""
    return f"ws://localhost:{scene.server.port}/balance?token={given}"


async def test_an_approved_topup_is_shown_as_in_the_reference(scene: Scene, wscat: Run) -> None:
    owned = await scene.own(10_000)
    watched = await wscat(address(scene, user_token(owned)))
    assert (await watched.wait_received("balance_initial"))["balance"] == 100
    asked = await scene.server.call(
        "POST", "/transactions/topup", json={"amount": 50}, headers=owned.as_user
    )
    path = f"/transactions/topup/{asked.json()['id']}/process"
    await scene.server.call("PATCH", path, json={"status": "success"}, headers=bearer())
    completed = await watched.wait_received("transaction_completed")
    updated = await watched.wait_received("balance_updated")
    fields = ("newBalance", "previousBalance", "transactionType", "amount")
    assert tuple(updated[name] for name in fields) == (150, 100, "topup", 50)
    assert (completed["newBalance"], completed["seq"]) == (150, 2)
    names = ["balance_initial", "balance_updated", "transaction_completed"]
    assert [one["event"] for one in watched.received] == names


async def test_a_typed_question_is_answered(scene: Scene, wscat: Run) -> None:
    owned = await scene.own(4_250)
    watched = await wscat(address(scene, user_token(owned)))
    await watched.wait_received("balance_initial")
    watched.type('{"event":"get_current_balance"}')
    assert await watched.wait_received("balance_current") == {
        "event": "balance_current",
        "balance": 42.5,
    }
    watched.type('{"event":"subscribe_balance"}')
    assert await watched.wait_received("balance_subscribed") == {
        "event": "balance_subscribed",
        "userId": owned.user,
        "balance": 42.5,
    }


@pytest.mark.parametrize("fault", ["garbage", "expired", "missing"])
async def test_a_bad_token_is_accepted_and_closed_with_4401_and_a_reason(
    scene: Scene, wscat: Run, fault: str
) -> None:
    expired = token("somebody", Role.USER, now=datetime.now(UTC) - timedelta(days=1))
    given = {"garbage": "not.a.token", "expired": expired, "missing": ""}[fault]
    watched = await wscat(address(scene, given))
    await watched.wait_shown("Disconnected (code: 4401")
    await watched.wait_ended()
    assert 'reason: ""' not in watched.screen
    assert watched.received == []


async def test_frames_that_are_no_messages_are_answered_and_at_last_closed_with_4400(
    scene: Scene, wscat: Run
) -> None:
    owned = await scene.own(100)
    watched = await wscat(address(scene, user_token(owned)))
    await watched.wait_received("balance_initial")
    watched.type("hello?")
    error = await watched.wait_received("error")
    assert error["code"] == "malformed_frame"
    assert error["message"]
    for _ in range(20):
        watched.type("[]")
    await watched.wait_shown("Disconnected (code: 4400")
    await watched.wait_ended()
