"""The system under test as its clients see it: processes that take orders, die, and come back."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.history import Asked, Outcome

ROOT = Path(__file__).parents[2]
START_DEADLINE_S = 60.0
READY_PAUSE_S = 0.02
RESTART_PAUSE_S = 0.2


class ProcessDown(Exception):
    """The process was not there to be asked: nothing was sent."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A balance as one process answered it."""

    seq: int
    posted: int
    held: int


@dataclass(slots=True)
class ChildProcess:
    """One process of the system under test: a command that is started again after each death."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    _child: subprocess.Popen[bytes] | None = None

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What it ended with, if it has ended."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Start it; what it says goes to its log."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **self.environment},
            )
        self.starts += 1

    def kill(self) -> None:
        """End it with SIGKILL: no handler runs, nothing is flushed."""
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)
            self._child.wait()

    def end(self) -> None:
        """End it for good."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


class Target(ABC):
    """Two or more processes on one database.

    `send` and `read` raise ProcessDown where nothing was sent; everything else is an answer, `Unknown` among them.
    """

    processes: list[ChildProcess]
    in_flight: list[int]
    answered: list[int]

    def __init__(self, processes: list[ChildProcess]) -> None:
        self.processes = processes
        self.in_flight = [0] * len(processes)
        self.answered = [0] * len(processes)

    @abstractmethod
    async def send(self, process: int, asked: Asked) -> Outcome:
        """Send one order to one process and wait for what it says."""

    @abstractmethod
    async def read(self, process: int, account: int) -> Standing | None:
        """Read one balance from one process; None without an answer, or for one that says it may be old."""

    @abstractmethod
    async def is_ready(self, process: int) -> bool:
        """Whether the process takes orders."""

    @abstractmethod
    async def disconnect(self, process: int) -> None:
        """Drop the connections to a process."""

    async def start(self, process: int) -> None:
        """Start one process and wait until it takes orders."""
        self.processes[process].start()
        await self.wait_ready(process)

    async def wait_ready(self, process: int) -> None:
        """Wait until a process takes orders; one that ends because its database is away is started again."""
        child = self.processes[process]
        until = time.monotonic() + START_DEADLINE_S
        while not await self.is_ready(process):
            if not child.lives:
                await asyncio.sleep(RESTART_PAUSE_S)
                child.start()
            if time.monotonic() > until:
                tail = child.log.read_text(errors="replace")[-3000:]
                raise AssertionError(f"{child.name} did not start ({child.exit_code}):\n{tail}")
            await asyncio.sleep(READY_PAUSE_S)

    async def start_all(self) -> None:
        """Start all processes at once."""
        await asyncio.gather(*(self.start(process) for process in range(len(self.processes))))

    async def kill(self, process: int) -> None:
        """Kill one process and start it again at once."""
        self.processes[process].kill()
        await self.disconnect(process)
        await self.start(process)

    async def close(self) -> None:
        """End all processes."""
        for process, child in enumerate(self.processes):
            await self.disconnect(process)
            child.end()


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-P", "-m", module, *arguments]
