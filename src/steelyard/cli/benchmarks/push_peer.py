"""The peer of `bench push`: the reference's balance gateway on a bare python-socketio.

It subscribes to `balance:updates`, as the reference says, and emits what comes to the user's room: two events a
message, each awaited, so that they keep their order. It reads no database, checks no signature, replays nothing, bounds
nothing and logs nothing.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import socketio
from redis.asyncio import Redis

from steelyard.cli.benchmarks.product import AUDIENCE, ISSUER

NAMESPACE, CHANNEL = "/balance", "balance:updates"
_COMPLETED = (
    "transactionId",
    "transactionType",
    "amount",
    "newBalance",
    "timestamp",
    "accountId",
    "currency",
    "seq",
)


def create_push_peer(*, redis_url: str, secret: str) -> Any:
    """Build an ASGI application that puts each user into a room of its own and emits what the channel brings.

    Args:
        redis_url: Where the committing process publishes.
        secret: Tokens are HS256, verified once at connect.
    """
    server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=[])

    async def connect(sid: str, _environ: dict[str, Any], auth: dict[str, str]) -> None:
        claims = jwt.decode(
            auth["token"], secret, algorithms=["HS256"], issuer=ISSUER, audience=AUDIENCE
        )
        await server.enter_room(sid, claims["sub"], namespace=NAMESPACE)

    server.on("connect", connect, namespace=NAMESPACE)
    return _Listening(server, redis_url)


class _Listening:
    """The Socket.IO application, with a listener on the channel while it runs."""

    def __init__(self, server: Any, redis_url: str) -> None:
        self.server, self.redis_url = server, redis_url
        self.application = socketio.ASGIApp(server)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.application(scope, receive, send)
            return
        await receive()
        async with self._listener():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _listener(self) -> AsyncIterator[None]:
        client = Redis.from_url(self.redis_url)
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        await pubsub.subscribe(CHANNEL)
        listening = asyncio.create_task(self._listen(pubsub))
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.wait({listening})
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            await client.aclose()

    async def _listen(self, pubsub: Any) -> None:
        emit = self.server.emit
        async for message in pubsub.listen():
            event = json.loads(message["data"])
            if event["event"] != "balance_updated":
                continue
            room = event["userId"]
            await emit("balance_updated", event, namespace=NAMESPACE, room=room)
            completed = {name: event[name] for name in _COMPLETED}
            await emit("transaction_completed", completed, namespace=NAMESPACE, room=room)
