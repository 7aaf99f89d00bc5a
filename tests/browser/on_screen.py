"""What tests of a screen share: who looks at it, where it connects, and money that moves meanwhile."""

from typing import Any

from steelyard.access.model import Role
from tests.browser.socket_client import SocketClient, SocketClients
from tests.e2e.scene import Owned, Scene
from tests.e2e.server_kit import bearer, token

QUIET_S = 0.3
"""How long nothing must come before a test believes that nothing comes."""


def user_token(owned: Owned, **more: Any) -> str:
    """Return a token of the user itself."""
    return token(owned.user, Role.USER, tenant=owned.tenant, **more)


def gateway(scene: Scene, query: str = "") -> str:
    """Return the address that the reference gives to `io`."""
    return f"http://localhost:{scene.server.port}/balance{query}"


async def connect(
    sockets: SocketClients, scene: Scene, owned: Owned, **auth: object
) -> SocketClient:
    """Connect as the user, with a Manager of its own, and wait for the first balance."""
    options = {"auth": {"token": user_token(owned), **auth}, "forceNew": True}
    socket = await sockets.open(gateway(scene), options)
    await socket.wait("balance_initial")
    return socket


async def move(scene: Scene, owned: Owned, socket: SocketClient, what: str, amount: int) -> None:
    """Move money and wait until the socket was told of it."""
    moved = await scene.post(owned, what, {"amount": amount})
    await socket.wait("transaction_completed", seq=moved["seq"])
    await socket.wait("balance_updated", seq=moved["seq"])


async def decide_topup(scene: Scene, owned: Owned, amount: int, status: str) -> str:
    """Ask for a top-up as the user and decide it as an admin; return its id."""
    asked = await scene.server.call(
        "POST", "/transactions/topup", json={"amount": amount}, headers=owned.as_user
    )
    assert asked.status_code == 201, asked.text
    path = f"/transactions/topup/{asked.json()['id']}/process"
    decided = await scene.server.call("PATCH", path, json={"status": status}, headers=bearer())
    assert decided.status_code == 200, decided.text
    return str(asked.json()["id"])
