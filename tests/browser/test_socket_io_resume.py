"""What a `socket.io-client` has missed when it comes back: told again by its positions, or by the balance alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest_asyncio

from tests.browser.on_screen import connect, gateway, move, user_token
from tests.browser.socket_client import SocketClients
from tests.e2e.database_proxy import DatabaseProxy
from tests.e2e.scene import Scene
from tests.e2e.server_kit import Server, start_server
from tests.world import FreshDatabase

Cable = Callable[[str], Awaitable[DatabaseProxy]]


async def test_missed_changes_are_replayed_after_the_position_of_the_client(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(10_000)
    socket = await connect(sockets, scene, owned)
    await move(scene, owned, socket, "charges", 100)
    await socket.do("disconnect")
    for amount in (200, 300, 400):
        await scene.post(owned, "charges", {"amount": amount})
    await socket.do("setAuth", {"token": user_token(owned), "positions": {owned.account: 2}})
    came_back = len(socket.events)
    await socket.do("connect")
    final = await socket.wait("balance_initial", resumed=True)
    assert (final["data"]["balance"], final["data"]["seq"]) == (90, 5)
    told = socket.events[came_back:]
    assert [one["event"] for one in told if one["event"] == "transaction_completed"] == [
        "transaction_completed"
    ] * 3
    assert told[-1]["event"] == "balance_initial"
    completed = [one["data"] for one in told if one["event"] == "transaction_completed"]
    assert [(one["seq"], one["newBalance"]) for one in completed] == [(3, 97), (4, 94), (5, 90)]
    updated = [one["data"] for one in told if one["event"] == "balance_updated"]
    assert (updated[0]["prevSeq"], updated[0]["previousBalance"]) == (2, 99)
    assert (updated[-1]["seq"], updated[-1]["newBalance"]) == (5, 90)
    assert all(one["replayed"] for one in completed + updated)
    await move(scene, owned, socket, "charges", 100)
    assert "replayed" not in socket.heard("transaction_completed")[-1]


async def test_a_position_the_ledger_does_not_have_gives_the_balance_alone(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(500)
    socket = await connect(sockets, scene, owned, positions={owned.account: 99})
    (initial,) = socket.heard("balance_initial")
    assert (initial["balance"], initial["resumed"], initial["reason"]) == (5, False, "unknown")
    assert socket.names == ["connect", "balance_initial"]


async def test_a_broken_connection_comes_back_by_itself_with_the_newest_balance(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(1_000)
    socket = await connect(sockets, scene, owned)
    await socket.do("breakTransport")
    disconnect = await socket.wait("disconnect")
    assert disconnect["active"]
    await scene.post(owned, "charges", {"amount": 250})
    await socket.wait("connect", times=2)
    await socket.wait("balance_initial", balance=7.5)
    await move(scene, owned, socket, "charges", 250)
    assert socket.heard("balance_updated")[-1]["newBalance"] == 5


async def test_a_client_that_keeps_positions_misses_nothing_over_broken_connections(
    scene: Scene, sockets: SocketClients
) -> None:
    breaks, charges, owned = 6, 60, await scene.own(10_000)
    socket = await sockets.open_with_positions(gateway(scene), user_token(owned))
    await socket.wait("balance_initial")
    for already in range(breaks):
        await socket.wait("connect", times=1 + already)
        some = [scene.post(owned, "charges", {"amount": 10}) for _ in range(charges // breaks)]
        charging = asyncio.gather(*some)
        await socket.do("breakTransport")
        await charging
    await socket.wait("transaction_completed", seq=1 + charges)
    seen: list[int] = []
    for one in socket.heard("transaction_completed"):
        if one["seq"] not in seen:
            seen.append(one["seq"])
            assert one["newBalance"] == round(100 - 0.1 * (one["seq"] - 1), 2)
    assert seen == list(range(2, 2 + charges))
    assert socket.names.count("disconnect") == breaks


async def test_holds_and_releases_are_balances_alone_and_are_not_replayed_twice(
    scene: Scene, sockets: SocketClients
) -> None:
    owned = await scene.own(10_000)
    socket = await sockets.open_with_positions(gateway(scene), user_token(owned))
    await socket.wait("balance_initial")
    hold = await scene.post(owned, "holds", {"amount": 2_000})
    await socket.wait("balance_updated", seq=2)
    await socket.do("disconnect")
    await scene.post(owned, f"holds/{hold['transaction']}/capture", {"amount": 1_500})
    await scene.post(owned, "holds", {"amount": 100})
    await socket.do("connect")
    await socket.wait("balance_initial", resumed=True)
    told = [
        (one["transactionType"], one["seq"], one["newBalance"], one["posted"], one["held"])
        for one in socket.heard("balance_updated")
    ]
    assert told[0] == ("hold", 2, 80, 100, 20)
    assert told[-1] == ("hold", 4, 84, 85, 1)
    assert [one["seq"] for one in socket.heard("transaction_completed")] == [3]
    assert "replayed" not in socket.heard("balance_updated")[0]


@pytest_asyncio.fixture
async def second(product_database: FreshDatabase, tmp_path: Path) -> AsyncIterator[Server]:
    """Another process on the same database."""
    started = await start_server(product_database.app_url, tmp_path)
    yield started
    if started.process.poll() is None:
        await started.stop()


async def test_a_client_moves_to_another_process_and_misses_nothing(
    scene: Scene, second: Server, sockets: SocketClients, cable: Cable
) -> None:
    owned = await scene.own(10_000)
    plug = await cable(second.url)
    url = f"http://localhost:{plug.port}/balance"
    socket = await sockets.open_with_positions(url, user_token(owned))
    await socket.wait("balance_initial")
    await move(scene, owned, socket, "charges", 100)
    plug.target = scene.server.url
    await second.stop()
    disconnect = await socket.wait("disconnect")
    assert disconnect["active"], "the client comes back by itself"
    await scene.post(owned, "charges", {"amount": 100})
    await socket.wait("balance_initial", resumed=True)
    await move(scene, owned, socket, "charges", 100)
    assert [one["seq"] for one in socket.heard("transaction_completed")] == [2, 3, 4]
