"""A running Node.js script that answers commands and tells events, one JSON text a line."""

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Self

from tests.browser.install import HERE, Clients

CALL_DEADLINE_S = 20.0
EVENT_DEADLINE_S = 10.0
END_DEADLINE_S = 15.0
LINE_BYTES_MAX = 1 << 24
STDERR_LINES_KEPT = 100

Event = dict[str, Any]


class ScriptFailed(AssertionError):
    """A command of a script failed, or the script is no longer there to answer."""


class NodeScript:
    """Starts a script of this folder, gives it commands and keeps all it tells, in order, in `events`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.events: list[Event] = []
        self._name = name
        self._process = process
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._ids = count(1)
        self._arrived = asyncio.Event()
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        self._readers = [
            asyncio.create_task(self._read()),
            asyncio.create_task(self._read_stderr()),
        ]

    @classmethod
    async def start(
        cls, clients: Clients, name: str, *, environment: Mapping[str, str] | None = None
    ) -> Self:
        """Start the script `name` with the clients' packages in reach."""
        process = await asyncio.create_subprocess_exec(
            clients.node,
            HERE / name,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            env=node_environment(clients) | dict(environment or {}),
        )
        return cls(name, process)

    async def call(
        self, command: str, *arguments: object, deadline_s: float = CALL_DEADLINE_S
    ) -> Any:
        """Have the script do something; return its result, raise ScriptFailed with its error."""
        number = next(self._ids)
        answer = self._calls[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "command": command, "arguments": arguments}
        assert self._process.stdin is not None
        if self._readers[0].done():
            raise self._ended()
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        try:
            async with asyncio.timeout(deadline_s):
                return await answer
        except TimeoutError:
            raise ScriptFailed(f"{self._name}: {command} took over {deadline_s} s") from None
        finally:
            del self._calls[number]

    async def wait(
        self, is_wanted: Callable[[Event], bool], *, deadline_s: float = EVENT_DEADLINE_S
    ) -> Event:
        """Return the first event, from the beginning, that is wanted; wait for it."""
        seen = 0
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    self._arrived.clear()
                    for event in self.events[seen:]:
                        if is_wanted(event):
                            return event
                    seen = len(self.events)
                    if self._readers[0].done():
                        raise self._ended()
                    await self._arrived.wait()
        except TimeoutError:
            told = "\n".join(map(str, self.events[-30:])) or "nothing"
            raise ScriptFailed(
                f"{self._name}: not told in {deadline_s} s; it told:\n{told}"
            ) from None

    async def stop(self) -> None:
        """End the script as it ends by itself: its input is closed; it must exit with 0."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(END_DEADLINE_S):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise ScriptFailed(f"{self._name} did not end in {END_DEADLINE_S} s") from None
        finally:
            await asyncio.gather(*self._readers)
        if code:
            raise ScriptFailed(f"{self._name} ended with {code}: {self._said()}")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                self._take(json.loads(line))
        finally:
            for waiting in self._calls.values():
                if not waiting.done():
                    waiting.set_exception(self._ended())
            self._arrived.set()

    def _take(self, message: Event) -> None:
        if "id" not in message:
            self.events.append(message)
            self._arrived.set()
            return
        waiting = self._calls.get(message["id"])
        if waiting is None or waiting.done():
            return
        if "error" in message:
            waiting.set_exception(ScriptFailed(f"{self._name}: {message['error']}"))
        else:
            waiting.set_result(message["result"])

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self._stderr.append(line.decode(errors="replace"))

    def _ended(self) -> ScriptFailed:
        return ScriptFailed(f"{self._name} has ended: {self._said()}")

    def _said(self) -> str:
        return "".join(self._stderr)[-3000:] or "it said nothing"


def node_environment(clients: Clients) -> dict[str, str]:
    """Return what a Node.js process of the tests needs, and no more."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = os.pathsep.join([str(Path(clients.node).parent), os.environ.get("PATH", os.defpath)])
    return {**kept, "PATH": path, "NODE_PATH": str(clients.modules)}
