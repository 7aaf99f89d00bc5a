"""Reads a request's body, no more of it than allowed, whatever Content-Length says."""

import asyncio
from collections.abc import Mapping

from starlette.types import Message, Receive

from steelyard.runtime.problems import BodyTooLarge, UnsupportedMediaType

DISCARD_BYTES = 1_048_576
DISCARD_S = 1.0
METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class ClientGone(Exception):
    """The client closed the connection before its request was whole; nobody waits for an answer."""


async def receive_body(receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLarge: It is declared, or turns out to be, larger than `limit_bytes`.
        UnsupportedMediaType: There is one and it is not declared as JSON.
        ClientGone: It never came whole.
    """
    declared = headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > limit_bytes:
        await _discard(receive)
        raise BodyTooLarge(limit_bytes=limit_bytes)
    message = await receive()
    body = _part(message)
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body") and size <= limit_bytes:
            message = await receive()
            parts.append(_part(message))
            size += len(parts[-1])
        body = b"".join(parts)
    if len(body) > limit_bytes:
        if message.get("more_body"):
            await _discard(receive)
        raise BodyTooLarge(limit_bytes=limit_bytes)
    if body:
        check_media_type(headers.get(b"content-type", b""))
    return body


def check_media_type(declared: bytes) -> None:
    """Let `application/json` and `application/…+json` pass.

    Raises:
        UnsupportedMediaType: It is another.
    """
    if declared == b"application/json":
        return
    kind = declared.partition(b";")[0].strip().lower()
    if kind != b"application/json" and not (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    ):
        raise UnsupportedMediaType(found=kind.decode("latin-1") or "nothing")


async def _discard(receive: Receive) -> None:
    """Take a little more and keep nothing: a client that still sends would not read the answer."""
    size = 0
    try:
        async with asyncio.timeout(DISCARD_S):
            while size <= DISCARD_BYTES:
                message = await receive()
                size += len(_part(message))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


def _part(message: Message) -> bytes:
    if message["type"] != "http.request":
        raise ClientGone
    part: bytes = message.get("body", b"")
    return part


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read already, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
