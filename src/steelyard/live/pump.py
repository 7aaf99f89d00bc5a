"""Sends what waits in a session's outbox through an ASGI `send`, without a task as long as nothing has to wait."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from steelyard.live.events import LiveEvent

Message = dict[str, Any]
Send = Callable[[Any], Awaitable[None]]


class Rest:
    """What remains of a coroutine that was stepped until it had to wait."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine, self._waits_for = coroutine, waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        """Go on where it waits."""
        try:
            yield self._waits_for
        except asyncio.CancelledError:
            self._coroutine.close()
            raise
        yield from self._coroutine.__await__()


def step(coroutine: Coroutine[Any, Any, None]) -> Rest | None:
    """Run a coroutine until it is done (None) or has to wait (the rest of it)."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    return Rest(coroutine, waits_for)


@dataclass(slots=True, eq=False)
class Pump:
    """Takes events and sends them, one at a time and in order.

    As long as the connection takes bytes this happens at once, inside `wake`. While it does not, one task waits for
    it and nothing is taken: what happens meanwhile is merged in the outbox.
    """

    send: Send
    take: Callable[[], LiveEvent | None]
    message_of: Callable[[LiveEvent], Message]
    broke: Callable[[], None]
    """Called when the connection has gone."""
    _rest: "asyncio.Task[None] | None" = None
    _is_pumping: bool = False
    _is_stopped: bool = False

    def wake(self) -> None:
        """Send what may be sent."""
        if self._rest is not None or self._is_pumping or self._is_stopped:
            return
        self._is_pumping = True
        try:
            while (event := self._next()) is not None:
                rest = step(self._send(self.message_of(event)))
                if rest is not None:
                    self._rest = asyncio.create_task(self._finish(rest))
                    return
        except OSError:  # what a server raises once the client has gone
            self._is_stopped = True
            self.broke()
        finally:
            self._is_pumping = False

    async def stop(self, last: Message | None, *, deadline_s: float) -> bool:
        """Send nothing more but `last`. Returns whether it could be sent in time."""
        self._is_stopped = True
        try:
            async with asyncio.timeout(deadline_s):
                if self._rest is not None:
                    await asyncio.shield(self._rest)
                if last is not None:
                    await self.send(last)
        except TimeoutError:
            return False
        except OSError:
            return True  # gone already
        finally:
            if self._rest is not None:
                self._rest.cancel()
        return True

    def _next(self) -> LiveEvent | None:
        return None if self._is_stopped else self.take()

    async def _send(self, message: Message) -> None:
        await self.send(message)

    async def _finish(self, rest: Rest) -> None:
        try:
            await rest
        except OSError:
            self._is_stopped = True
            self.broke()
        finally:
            self._rest = None
        self.wake()
