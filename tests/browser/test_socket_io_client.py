"""The npm `socket.io-client` against the gateway, as an application uses it."""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta

import pytest

from steelyard.access.model import Role
from tests.browser.on_screen import (
    QUIET_S,
    connect,
    decide_topup,
    gateway,
    move,
    user_token,
)
from tests.browser.socket_client import SocketClient, SocketClients
from tests.e2e.scene import Owned, Scene
from tests.e2e.server_kit import key, token

WAYS = {
    "auth": (False, {}),
    "query": (True, {}),
    "websocket-only": (False, {"transports": ["websocket"]}),
    "polling-only": (False, {"transports": ["polling"]}),
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_event_of_the_reference_arrives_once_and_in_order(
    scene: Scene, sockets: SocketClients, way: str
) -> None:
    owned = await scene.own(10_000)
    in_query, options = WAYS[way]
    if in_query:
        socket = await sockets.open(gateway(scene, f"?token={user_token(owned)}"), options)
    else:
        socket = await sockets.open(
            gateway(scene), {**options, "auth": {"token": user_token(owned)}}
        )
    await socket.wait("balance_initial")
    await move(scene, owned, socket, "charges", 1_050)
    await move(scene, owned, socket, "recharges", 500)
    await decide_topup(scene, owned, 50, "success")
    await socket.wait("transaction_completed", seq=4)
    booked = await scene.server.call(
        "POST",
        "/transactions",
        json={"type": "booking", "amount": 44.5, "reference": "hotel-7"},
        headers={**owned.as_user, **key()},
    )
    assert booked.status_code == 201, booked.text
    await socket.wait("transaction_completed", seq=5)
    refused = await scene.send(owned, "charges", {"amount": 1_000_000})
    assert refused.status_code == 402
    await socket.wait("balance_insufficient")
    topup = await decide_topup(scene, owned, 7, "failed")
    await socket.wait("transaction_failed")
    await asyncio.sleep(QUIET_S)
    moved = ["balance_updated", "transaction_completed"]
    told = ["connect", "balance_initial", *moved * 4, "balance_insufficient", "transaction_failed"]
    assert socket.names == told
    _check_payloads(socket, owned, topup)


def _check_payloads(socket: SocketClient, owned: Owned, topup: str) -> None:
    place = {"accountId": owned.account, "currency": "GBP"}
    assert socket.heard("balance_initial") == [
        {"balance": 100, **place, "seq": 1, "posted": 100, "held": 0, "resumed": False}
    ]
    steps = [
        ("charge", -10.5, 100, 89.5),
        ("recharge", 5, 89.5, 94.5),
        ("topup", 50, 94.5, 144.5),
        ("booking", -44.5, 144.5, 100),
    ]
    updates, completions = socket.heard("balance_updated"), socket.heard("transaction_completed")
    for seq, (kind, amount, before, after) in enumerate(steps, start=2):
        update, completion = updates[seq - 2], completions[seq - 2]
        both = {
            "transactionId": update["transactionId"],
            "transactionType": kind,
            "amount": amount,
            "newBalance": after,
            "timestamp": update["timestamp"],
            **place,
            "seq": seq,
        }
        assert completion == both
        more = {"previousBalance": before, "prevSeq": seq - 1, "posted": after, "held": 0}
        assert update == both | more
        assert update["transactionId"]
        assert datetime.fromisoformat(update["timestamp"]).tzinfo == UTC
    (short,) = socket.heard("balance_insufficient")
    assert (short["requiredAmount"], short["currentBalance"], short["shortfall"]) == (
        10_000,
        100,
        9_900,
    )
    (failed,) = socket.heard("transaction_failed")
    assert (failed["transactionId"], failed["transactionType"]) == (topup, "topup")


async def test_the_default_transport_begins_with_polling_and_is_upgraded(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(100)
    options = {"auth": {"token": user_token(owned)}}
    default = await sockets.open(gateway(scene), options)
    polling = await sockets.open(
        gateway(scene), {**options, "transports": ["polling"], "forceNew": True}
    )
    for socket in (default, polling):
        await socket.wait("balance_initial")
    await move(scene, owned, default, "charges", 1)
    await polling.wait("transaction_completed")
    assert (await default.do("state"))["transport"] == "websocket"
    assert (await polling.do("state"))["transport"] == "polling"


@pytest.mark.parametrize("in_query", [False, True], ids=["auth", "query"])
@pytest.mark.parametrize("fault", ["missing", "garbage", "expired", "foreign signature"])
async def test_a_bad_token_is_a_connect_error_that_says_why(
    scene: Scene, sockets: SocketClients, fault: str, in_query: bool
) -> None:
    owned = await scene.own(100)
    long_ago = datetime.now(UTC) - timedelta(days=1)
    bad = {
        "missing": "",
        "garbage": "not.a.token",
        "expired": user_token(owned, now=long_ago),
        "foreign signature": user_token(owned, secret=secrets.token_hex(20)),
    }[fault]
    if in_query:
        socket = await sockets.open(gateway(scene, f"?token={bad}" if bad else ""))
    else:
        socket = await sockets.open(gateway(scene), {"auth": {"token": bad} if bad else {}})
    error = await socket.wait("connect_error")
    assert error["data"]["code"] == "unauthenticated"
    assert error["message"]
    assert not error["active"], "the client must not try the same token again and again"
    await scene.post(owned, "charges", {"amount": 1})
    await asyncio.sleep(QUIET_S)
    assert socket.names == ["connect_error"]
    assert bad == "" or bad not in str(socket.events)


async def test_listeners_added_inside_connect_hear_the_first_balance(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(1_234)
    for transports in (["polling", "websocket"], ["websocket"], ["polling"]):
        socket = await sockets.open(
            gateway(scene),
            {"auth": {"token": user_token(owned)}, "transports": transports, "forceNew": True},
            inside_connect=("balance_initial",),
        )
        heard = await socket.wait("heard_inside_connect")
        assert (heard["of"], heard["data"]["balance"]) == ("balance_initial", 12.34)
        assert socket.names.index("connect") < socket.names.index("balance_initial")


async def test_the_current_balance_is_acknowledged_told_and_sent_as_initial_again(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(9_900)
    socket = await connect(sockets, scene, owned)
    assert await socket.do("emitWithAck", "get_current_balance") == {"balance": 99}
    await socket.wait("balance_initial", times=2)
    assert socket.names == ["connect", "balance_initial", "balance_current", "balance_initial"]
    await socket.do("emit", "get_current_balance")
    await socket.wait("balance_initial", times=3)
    assert socket.heard("balance_current") == [{"balance": 99}] * 2
    assert [one["balance"] for one in socket.heard("balance_initial")] == [99] * 3


async def test_subscribing_is_answered_with_user_and_balance(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(150)
    socket = await connect(sockets, scene, owned)
    await socket.do("emit", "subscribe_balance")
    await socket.wait("balance_subscribed")
    assert socket.heard("balance_subscribed") == [{"userId": owned.user, "balance": 1.5}]


async def test_an_unknown_namespace_is_refused_and_its_neighbour_lives(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(100)
    options = {"auth": {"token": user_token(owned)}}
    other = await sockets.open(f"http://localhost:{scene.server.port}/nowhere", options)
    error = await other.wait("connect_error")
    assert not error["active"]
    socket = await sockets.open(gateway(scene), options)
    await socket.wait("balance_initial")
    await move(scene, owned, socket, "charges", 1)
    assert other.names == ["connect_error"]


async def test_the_token_of_auth_wins_over_a_query_of_a_shared_manager(
    scene: Scene, sockets: SocketClients
) -> None:
    before, after = await scene.own(1_100), await scene.own(2_200)
    other = f"http://localhost:{scene.server.port}/nowhere?token={user_token(before)}"
    first = await sockets.open(other)
    await first.wait("connect_error")
    second = await sockets.open(gateway(scene), {"auth": {"token": user_token(after)}})
    assert (await second.wait("balance_initial"))["data"]["balance"] == 22
    assert await first.do("isSharing", second.name), "one connection, with the first one's query"
    await move(scene, after, second, "charges", 100)
    await scene.post(before, "charges", {"amount": 100})
    await asyncio.sleep(QUIET_S)
    assert {one["accountId"] for one in second.heard("balance_updated")} == {after.account}


async def test_nobody_hears_of_another_user(scene: Scene, sockets: SocketClients) -> None:
    one, other = await scene.own(1_000), await scene.own(2_000)
    hers, his = await connect(sockets, scene, one), await connect(sockets, scene, other)
    await move(scene, one, hers, "charges", 100)
    await move(scene, other, his, "charges", 100)
    await asyncio.sleep(QUIET_S)
    for socket, owned in ((hers, one), (his, other)):
        names = ["connect", "balance_initial", "balance_updated", "transaction_completed"]
        assert socket.names == names
        assert {event["data"]["accountId"] for event in socket.events[1:]} == {owned.account}


async def test_an_operator_names_whose_screen_it_is_and_a_user_may_not(
    scene: Scene, sockets: SocketClients
) -> None:
    owned, other = await scene.own(4_200), await scene.own(0)
    auth = {"token": token("desk", Role.OPERATOR), "user": owned.user}
    desk = await sockets.open(gateway(scene), {"auth": auth})
    assert (await desk.wait("balance_initial"))["data"]["balance"] == 42
    await move(scene, owned, desk, "charges", 100)
    auth = {"token": user_token(other), "user": owned.user}
    curious = await sockets.open(gateway(scene), {"auth": auth, "forceNew": True})
    error = await curious.wait("connect_error")
    assert error["data"]["code"] == "forbidden"
    assert not error["active"]
    await move(scene, owned, desk, "charges", 100)
    assert curious.names == ["connect_error"]


async def test_a_refreshed_token_keeps_the_connection_and_an_ended_one_ends_it(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(1_000)
    short = user_token(owned, lifetime=timedelta(seconds=4))
    options = {"auth": {"token": short}, "forceNew": True}
    kept = await sockets.open(gateway(scene), options)
    ended = await sockets.open(gateway(scene), options)
    for socket in (kept, ended):
        expiring = await socket.wait("auth_expiring")
        assert datetime.fromisoformat(expiring["data"]["expiresAt"]).tzinfo == UTC
    foreign = await scene.own(0)
    refused = await kept.do("emitWithAck", "auth_refresh", {"token": user_token(foreign)})
    assert "expiresAt" not in refused
    answer = await kept.do("emitWithAck", "auth_refresh", {"token": user_token(owned)})
    assert answer["expiresAt"] > expiring["data"]["expiresAt"]
    await kept.wait("auth_refreshed", expiresAt=answer["expiresAt"])
    disconnect = await ended.wait("disconnect")
    assert (disconnect["reason"], disconnect["active"]) == ("io server disconnect", False)
    error = ended.heard("error")[-1]
    assert error["code"] == "unauthenticated"
    assert error["message"]
    await move(scene, owned, kept, "charges", 100)
    await ended.do("setAuth", {"token": user_token(owned)})
    await ended.do("connect")
    assert (await ended.wait("balance_initial", seq=2))["data"]["balance"] == 9
    assert "disconnect" not in kept.names


async def test_the_last_changes_are_told_again_when_asked_for(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(1_000)
    for _ in range(3):
        await scene.post(owned, "charges", {"amount": 100})
    socket = await connect(sockets, scene, owned)
    await socket.do("emit", "get_recent_events", {"limit": 2})
    await socket.wait("transaction_completed", seq=4)
    completed = socket.heard("transaction_completed")
    assert [(one["seq"], one["newBalance"], one["replayed"]) for one in completed] == [
        (3, 8, True),
        (4, 7, True),
    ]


async def test_an_unknown_event_is_answered_with_an_error_and_nothing_else(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(1_000)
    socket = await connect(sockets, scene, owned)
    await socket.do("emit", "give_me_money", {"amount": 1_000_000})
    await socket.wait("error")
    (error,) = socket.heard("error")
    assert error["code"]
    assert error["message"]
    await move(scene, owned, socket, "charges", 100)
    assert "disconnect" not in socket.names


async def test_too_many_questions_are_answered_with_when_to_ask_again(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(1_000)
    socket = await connect(sockets, scene, owned)
    for _ in range(25):
        await socket.do("emit", "get_current_balance")
    await socket.wait("error")
    (error, *_) = socket.heard("error")
    assert error["code"] == "rate_limited"
    assert error["retry_after_ms"] > 0
    await move(scene, owned, socket, "charges", 100)
    assert "disconnect" not in socket.names


async def test_a_user_has_ten_connections_and_no_more(scene: Scene, sockets: SocketClients) -> None:
    owned, other = await scene.own(1_000), await scene.own(500)
    opened = [await connect(sockets, scene, owned) for _ in range(10)]
    options = {"auth": {"token": user_token(owned)}, "forceNew": True}
    refused = await sockets.open(gateway(scene), options)
    error = await refused.wait("connect_error")
    assert error["data"]["code"] == "rate_limited"
    await connect(sockets, scene, other)
    await opened[0].do("disconnect")
    while "connect" not in refused.names:  # the server may learn of it a moment later
        await refused.do("connect")
        await asyncio.sleep(0.1)
    await refused.wait("balance_initial")
    await move(scene, owned, opened[-1], "charges", 100)
