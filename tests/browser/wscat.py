"""The npm `wscat` at a terminal, as a person runs it."""

import asyncio
import json
import os
import pty
import re
from pathlib import Path
from typing import Any

from tests.browser.install import Clients
from tests.browser.node_script import END_DEADLINE_S, EVENT_DEADLINE_S, node_environment

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
RECEIVED = re.compile(r"< (\{.*\})$", re.MULTILINE)
END_OF_INPUT = b"\x04"


class Wscat:
    """A running `wscat -c URL` and what its terminal shows."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self._process = process
        self._terminal = terminal
        self._raw = b""
        self._is_closed = False
        self._shown_more = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(terminal, self._read)

    @classmethod
    async def start(cls, clients: Clients, url: str) -> "Wscat":
        """Type `wscat -c URL`."""
        terminal, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            clients.node,
            Path(clients.modules, "wscat/bin/wscat"),
            "-c",
            url,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=node_environment(clients) | {"TERM": "xterm"},
        )
        os.close(theirs)
        return cls(process, terminal)

    @property
    def screen(self) -> str:
        """What was shown so far, without colours."""
        return CONTROL.sub("", self._raw.decode(errors="replace"))

    @property
    def received(self) -> list[dict[str, Any]]:
        """The messages that came from the server."""
        return [json.loads(text) for text in RECEIVED.findall(self.screen)]

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._terminal, line.encode() + b"\n")

    async def wait_received(self, event: str) -> dict[str, Any]:
        """Return the first message of this event; wait for it."""
        await self.wait_shown(f'"event":"{event}"')
        return next(one for one in self.received if one["event"] == event)

    async def wait_shown(self, words: str) -> None:
        """Wait until these words are on the screen and their line is complete."""
        wanted = re.compile(re.escape(words) + r"[^\n]*\n")
        try:
            async with asyncio.timeout(EVENT_DEADLINE_S):
                while not wanted.search(self.screen):
                    self._shown_more.clear()
                    if self._is_closed:
                        raise TimeoutError
                    await self._shown_more.wait()
        except TimeoutError:
            raise AssertionError(
                f"wscat never showed {words!r}; its screen:\n{self.screen}"
            ) from None

    async def wait_ended(self) -> None:
        """Wait until it ends by itself, because the server closed."""
        async with asyncio.timeout(END_DEADLINE_S):
            await self._process.wait()

    async def stop(self) -> None:
        """Press Control+D, which ends it."""
        if self._process.returncode is None:
            os.write(self._terminal, END_OF_INPUT)
            await self.wait_ended()
        self._loop.remove_reader(self._terminal)
        os.close(self._terminal)

    def _read(self) -> None:
        try:
            read = os.read(self._terminal, 1 << 16)
        except OSError:  # nobody holds the other side any more
            read = b""
        if not read:
            self._is_closed = True
            self._loop.remove_reader(self._terminal)
        self._raw += read
        self._shown_more.set()
