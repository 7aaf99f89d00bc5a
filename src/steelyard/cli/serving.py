"""Runs the HTTP server inside a command: its socket, its signals, its end."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvicorn

from steelyard.cli.outcome import say

ASKED_ONCE, ASKED_TWICE = 1, 2

T = TypeVar("T")


class LiveServer(uvicorn.Server):
    """uvicorn that tells live clients first that the process ends: they go, and come back elsewhere."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End live sessions, which would not end by themselves, then everything else."""
        end_live = getattr(self.config.app, "end_live", None)
        if end_live is not None:
            await end_live()
        await super().shutdown(sockets)


class Server(LiveServer):
    """uvicorn without its own signal handlers: the command decides what ends what, and in which order."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections, and say so."""
        await super().startup(sockets)
        if self.started:
            self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the command."""
        yield


def server_for(asgi: Callable[..., Any], options: Mapping[str, Any]) -> Server:
    """Return a server for an application whose lifespan the command runs itself, so that it hears its errors."""
    return Server(uvicorn.Config(asgi, **{**options, "lifespan": "off", "loop": "none"}))


@dataclass(slots=True)
class Ending:
    """Turns SIGINT and SIGTERM into an orderly end.

    The first lets requests finish; the second cuts them off; the third ends the process at once.
    Before the server runs, the first one cancels the start.
    """

    task: asyncio.Task[Any]
    server: Server | None = None
    asked: int = 0
    _signals: tuple[signal.Signals, ...] = field(default=(signal.SIGINT, signal.SIGTERM))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while inside."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)

    def ask(self) -> None:
        """Take one more request to end."""
        self.asked += 1
        if self.asked > ASKED_TWICE:
            os._exit(130)
        if self.asked == ASKED_TWICE:
            say("ending at once; a third signal ends it as `kill -9` would")
            if self.server is not None:
                self.server.force_exit = True
        elif self.server is None:
            self.task.cancel()
        else:
            self.server.should_exit = True


class WorkerEnding(Ending):
    """Ends a process without a server: the first signal lets it finish its work, the second cuts that off."""

    def ask(self) -> None:
        """Take one more request to end."""
        self.asked += 1
        if self.asked > ASKED_TWICE:
            os._exit(130)
        if self.asked == ASKED_TWICE:
            say("ending at once; a third signal ends it as `kill -9` would")
        self.task.cancel()


def run_in_loop(work: Coroutine[Any, Any, T], *, wants_uvloop: bool) -> T:
    """Run a command's work in a new event loop: uvloop's where it is wanted and there is one."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if wants_uvloop and sys.platform != "win32":
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
