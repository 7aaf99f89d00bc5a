"""Requests of the polling transport, read and answered within bounds before python-engineio sees them."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from steelyard.live.limits import FRAME_BYTES_MAX

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BODY_DEADLINE_S = 10.0
"""How long a client may take to send a body of at most `FRAME_BYTES_MAX`."""


async def read_body(receive: Receive) -> bytes | None:
    """Return the body of a request; None where it is too large, takes too long or does not come."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                part = message.get("body", b"")
                size += len(part)
                if size > FRAME_BYTES_MAX:
                    return None
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        return None


async def until_left(receive: Receive) -> None:
    """Return when the client has given the request up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def once(body: bytes) -> Receive:
    """Return a `receive` for a request that was read already."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def sized(scope: Scope, body: bytes) -> Scope:
    """Return the scope with the length of the body that was read; python-engineio reads no more than it says."""
    headers = [pair for pair in scope["headers"] if pair[0].lower() != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


async def refuse_request(send: Send, scope: Scope, status: int, message: str) -> None:
    """Answer a request with an error, or refuse a WebSocket before it is accepted."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013, "reason": message})
        return
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if status == 503:
        headers.append((b"retry-after", b"2"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"message": message}).encode()})
