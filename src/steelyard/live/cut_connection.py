"""Drops the connection of a client that does not read: ASGI has no word for it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

Send = Callable[[Any], Awaitable[None]]


def abort_connection(send: Send) -> bool:
    """Drop the TCP connection under an ASGI `send`, without waiting for its buffers; say whether it could be reached.

    Closing in good manners waits until all was read, which a client that stalls can put off for ever. uvicorn's `send` is a method of an object that has the connection's `transport`; elsewhere
    nothing is done, and the connection ends when the server's own patience does.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    abort = getattr(transport, "abort", None)
    if abort is None:
        return False
    with suppress(OSError, RuntimeError):
        abort()
    return True
