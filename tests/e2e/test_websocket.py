"""The plain WebSocket over a real server: what a client hears, and that it hears nothing else."""

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from steelyard.access.model import Role
from tests.e2e.scene import Scene
from tests.e2e.server_kit import start_server, token
from tests.e2e.socket_kit import connected, token_of, url_of
from tests.world import FreshDatabase

LATE = datetime.now(UTC) - timedelta(days=1)


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


async def test_a_client_that_comes_back_is_told_what_it_missed(scene: Scene) -> None:
    owned = await scene.own(10_000)
    for _ in range(3):
        await scene.post(owned, "charges", {"amount": 100})
    query = {"token": token_of(owned), "positions": {owned.account: 2}, "accounts": "all"}
    async with connected(scene.server, **query) as socket:
        initial = await socket.until("balance_initial")
        assert [(one["event"], one["seq"], one["replayed"]) for one in socket.heard[:-1]] == [
            (name, seq, True)
            for seq in (3, 4)
            for name in ("balance_updated", "transaction_completed")
        ]
        assert (initial["seq"], initial["resumed"]) == (4, True)


async def test_what_a_client_asks_is_answered(scene: Scene) -> None:
    owned = await scene.own(10_000)
    async with connected(scene.server, token=token_of(owned)) as socket:
        await socket.next()
        await socket.say("subscribe_balance")
        assert await socket.next() == {
            "event": "balance_subscribed",
            "userId": owned.user,
            "balance": 100,
        }
        await socket.say("get_current_balance")
        assert await socket.next() == {"event": "balance_current", "balance": 100}
        assert (await socket.next())["event"] == "balance_initial"
        await socket.say("auth_refresh", token=token_of(owned))
        assert set(await socket.next()) == {"event", "expiresAt"}
        await socket.quiet()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, 4401),
        ({"token": ""}, 4401),
        ({"token": "nonsense"}, 4401),
        ({"token": token("ann", Role.USER, secret="another secret of thirty-two bytes")}, 4401),
        ({"token": token("ann", Role.USER, now=LATE)}, 4401),
        ({"token": token("ann", Role.USER, tenant="nowhere")}, 4401),
        ({"token": token("ann", Role.USER), "user": "bob"}, 4403),
        ({"token": token("ann", Role.USER), "positions": "nonsense"}, 4400),
        ({"token": token("ann", Role.USER), "positions": [1]}, 4400),
        ({"token": token("ann", Role.USER), "positions": {"x": 1}}, 4400),
        ({"token": token("ann", Role.USER), "positions": {"1": -1}}, 4400),
        ({"token": token("ann", Role.USER), "positions": {"1": 1.5}}, 4400),
        ({"token": token("ann", Role.USER), "accounts": "some"}, 4400),
    ],
)
async def test_a_refused_connection_is_accepted_and_closed_with_a_code_and_a_reason(
    scene: Scene, given: dict[str, Any], code: int
) -> None:
    async with connected(scene.server, **given) as socket:
        closed = await socket.closed()
        assert closed[0] == code
        assert len(closed[1]) > 5
        assert socket.heard == []


async def test_pages_of_other_origins_may_not_connect(scene: Scene) -> None:
    owned = await scene.own(100)
    address = url_of(scene.server, token=token_of(owned))
    own, local = scene.server.url, "http://localhost:5173"
    for origin, code in ((own, 0), (local, 0), ("https://evil.example", 4403), ("null", 4403)):
        async with connect(address, origin=origin, proxy=None) as connection:  # type: ignore[arg-type]
            if not code:
                assert json.loads(await connection.recv())["event"] == "balance_initial"
            else:
                await connection.wait_closed()
                assert connection.close_code == code


async def test_a_path_without_a_socket_is_refused(scene: Scene) -> None:
    address = url_of(scene.server, token="x").replace("/balance", "/elsewhere")
    with pytest.raises(InvalidStatus) as refused:
        await connect(address, proxy=None)
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("nonsense", "malformed_frame"),
        ("", "malformed_frame"),
        ("[1, 2]", "malformed_frame"),
        ("null", "malformed_frame"),
        ('{"event": 5}', "malformed_frame"),
        ('{"event": "get_current_balance", "event": NaN}', "malformed_frame"),
        ("[" * 5_000, "malformed_frame"),
        ('{"event": "no such thing"}', "unknown_event"),
        ('{"event": "join", "room": "default:bob"}', "unknown_event"),
        ('{"event": "subscribe_balance", "userId": "bob"}', "invalid_input"),
        (json.dumps({"event": "get_current_balance", "pad": "x" * 16_384}), "frame_too_large"),
        (json.dumps({"event": "é" * 8_200}, ensure_ascii=False), "frame_too_large"),
        (b'{"event":"get_current_balance"}', "binary_frame"),
    ],
)
async def test_a_bad_frame_is_told_to_its_sender_alone_and_ends_nothing(
    scene: Scene, frame: str | bytes, code: str
) -> None:
    owned, other = await scene.own(100), await scene.own(200)
    async with (
        connected(scene.server, token=token_of(owned)) as socket,
        connected(scene.server, token=token_of(other)) as witness,
    ):
        await asyncio.gather(socket.next(), witness.next())
        await socket.connection.send(frame)
        told = await socket.next()
        assert (told["event"], told["code"]) == ("error", code)
        await socket.say("get_current_balance")
        assert await socket.next() == {"event": "balance_current", "balance": 1}
        await witness.quiet()


async def test_bad_frames_in_a_row_close_with_4400_and_leave_others_alone(scene: Scene) -> None:
    owned, other = await scene.own(100), await scene.own(200)
    async with (
        connected(scene.server, token=token_of(owned)) as socket,
        connected(scene.server, token=token_of(other)) as witness,
    ):
        await asyncio.gather(socket.next(), witness.next())
        for _ in range(11):
            await socket.connection.send("nonsense")
        assert await socket.closed() == (4400, "malformed_frame")
        assert [one["event"] for one in socket.heard[1:]] == ["error"] * 10
        await scene.post(other, "charges", {"amount": 1})
        await witness.until("transaction_completed")


async def test_a_frame_too_large_to_be_read_closes_the_connection(scene: Scene) -> None:
    owned = await scene.own(100)
    async with connected(scene.server, token=token_of(owned)) as socket:
        await socket.next()
        await socket.connection.send("x" * 70_000)
        assert (await socket.closed())[0] == 1009


async def test_a_flood_closes_with_4429_and_takes_no_memory(scene: Scene) -> None:
    owned, other = await scene.own(100), await scene.own(200)
    frame = json.dumps({"event": "get_current_balance"})
    before = _memory_kib(scene)
    async with connected(scene.server, token=token_of(other)) as witness:
        await witness.next()
        for _ in range(5):
            async with connected(scene.server, token=token_of(owned)) as socket:
                await socket.next()
                flood = asyncio.create_task(_flood(socket.connection, frame))
                assert (await socket.closed())[0] == 4429
                await flood
        await scene.post(other, "charges", {"amount": 1})
        await witness.until("transaction_completed")
    assert _memory_kib(scene) - before < 8_192


async def _flood(connection: Any, frame: str) -> None:
    with contextlib.suppress(ConnectionClosed):  # the server ends it, which is what is asked for
        for _ in range(3_000):
            await connection.send(frame)


def _memory_kib(scene: Scene) -> int:
    status = Path(f"/proc/{scene.server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


async def test_one_connection_too_many_closes_with_4429(scene: Scene) -> None:
    owned = await scene.own(100)
    sockets = [
        await connect(url_of(scene.server, token=token_of(owned)), proxy=None) for _ in range(10)
    ]
    try:
        for socket in sockets:
            assert json.loads(await socket.recv())["event"] == "balance_initial"
        async with connected(scene.server, token=token_of(owned)) as eleventh:
            assert (await eleventh.closed())[0] == 4429
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets))


async def test_a_token_that_ends_is_announced_and_then_closes_with_4401(scene: Scene) -> None:
    owned = await scene.own(100)
    short = token_of(owned, lifetime=timedelta(seconds=3))
    async with connected(scene.server, token=short) as socket:
        warned = await socket.until("auth_expiring")
        assert set(warned) == {"event", "expiresAt"}
        assert await socket.closed() == (4401, "unauthenticated")
    async with connected(
        scene.server, token=token_of(owned, lifetime=timedelta(seconds=3))
    ) as kept:
        await kept.until("auth_expiring")
        await kept.say("auth_refresh", token=token_of(owned))
        await kept.until("auth_refreshed")
        await asyncio.sleep(3.5)
        await scene.post(owned, "charges", {"amount": 1})
        await kept.until("transaction_completed")


@pytest.mark.slow
async def test_a_revoked_token_closes_with_4401_within_seconds(scene: Scene) -> None:
    owned = await scene.own(100)
    async with connected(scene.server, token=token_of(owned)) as socket:
        await socket.next()
        await asyncio.sleep(1)
        edit = {"revoke_tokens": True}
        answer = await scene.server.call("PATCH", f"/api/users/{owned.user}", json=edit)
        assert answer.status_code == 200, answer.text
        async with asyncio.timeout(20):
            await socket.connection.wait_closed()
        assert socket.connection.close_code == 4401


@pytest.mark.slow
async def test_a_half_open_connection_is_cut(scene: Scene) -> None:
    """A peer that answers no ping, as one whose machine lost its power."""
    owned = await scene.own(100)
    before = await _sessions(scene)
    address = url_of(scene.server, token=token_of(owned)).removeprefix("ws://")
    host, _, path = address.partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(
        f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    assert b"balance_initial" in await reader.readuntil(b"}")
    assert await _sessions(scene) == before + 1
    async with asyncio.timeout(60):
        while await reader.read(1_024):
            pass
    writer.close()
    assert await _sessions(scene) == before


async def _sessions(scene: Scene) -> int:
    answer = await scene.server.client.get("/metrics")
    for line in answer.text.splitlines():
        if line.startswith('steelyard_live_sessions{transport="websocket"}'):
            return int(float(line.split()[-1]))
    return 0


async def test_the_end_of_the_server_closes_with_1001_and_no_log_holds_a_token(
    shared_database: FreshDatabase, scene: Scene, tmp_path: Path
) -> None:
    owned = await scene.own(100)
    good, bad = token_of(owned), token_of(owned, secret="another secret of thirty-two bytes")
    settings = {"STEELYARD_LOG_LEVEL": "debug"}
    server = await start_server(shared_database.app_url, tmp_path, settings=settings)
    async with (
        connected(server, token=good) as socket,
        connected(server, token=bad) as refused,
        server.client.stream("GET", f"/balance/stream?token={good}") as stream,
    ):
        await socket.next()
        assert (await refused.closed())[0] == 4401
        answer = await server.client.get(f"/socket.io/?EIO=4&transport=polling&token={good}")
        assert answer.status_code == 200
        assert (await server.client.get(f"/balance/stream?token={bad}")).status_code == 401
        lines = stream.aiter_lines()
        assert await anext(lines) == "retry: 2000"
        server.process.terminate()
        assert await socket.closed() == (1001, "shutting_down")
        assert [line async for line in lines][-2] == (
            'data: {"code":"shutting_down","message":"the stream ends"}'
        )
    await server.stop()
    assert '"event":"server.stopped"' in server.log_lines()[-1]
    log = server.log.read_text()
    assert good not in log
    assert bad not in log
    assert good.split(".")[2] not in log
    assert '"path":"/balance/stream"' in log
    assert "Exception" not in log
    assert '"level":"error"' not in log
