"""The `steelyard` command as a person or script runs it: a process, its output, its exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2

from steelyard.__main__ import load_program
from steelyard.cli.main import main
from tests.e2e.server_kit import free_port

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "src/steelyard/data/card-purchases-2014-10.csv"
COMMAND = (sys.executable, "-P", "-m", "steelyard")
RUN_DEADLINE_S = 60
READY_DEADLINE_S = 60


@dataclass(frozen=True)
class Run:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed on stdout."""
        return json.loads(self.out)

    @property
    def problem(self) -> Any:
        """The problem object it printed on stderr, as its last line."""
        return json.loads(self.err.splitlines()[-1])


def environment(**extra: str) -> dict[str, str]:
    """Return this environment without our settings, with `src` to import from, and `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEELYARD_")}
    return kept | {"PYTHONPATH": str(ROOT / "src")} | extra


def command(*arguments: object, **extra: str) -> Run:
    """Run a command to its end inside this process, as quick as a command gets; `extra` is its environment."""
    out, err = StringIO(), StringIO()
    with (
        patch.dict(os.environ, environment(**extra), clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = main(list(map(str, arguments)), load_program)
    return Run(code, out.getvalue(), err.getvalue())


def steelyard(*arguments: object, **extra: str) -> Run:
    """Run a command to its end as a process of its own; `extra` are environment variables."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=RUN_DEADLINE_S,
        env=environment(**extra),
    )
    return Run(done.returncode, done.stdout, done.stderr)


@dataclass
class Up:
    """A running `steelyard up`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, folder: Path, *options: str, port: int | None = None) -> "Up":
        """Start it on a data folder; wait for nothing."""
        chosen = port or free_port()
        log = folder.with_name(f"{folder.name}.log")
        with log.open("ab") as out:
            process = subprocess.Popen(
                [*COMMAND, "up", "--data-dir", str(folder), "--port", str(chosen), *options],
                stdout=out,
                stderr=out,
                env=environment(),
            )
        return cls(folder, chosen, process, log)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> float:
        """Wait until `/readyz` answers 200; return how long that took, seconds."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < READY_DEADLINE_S:
            assert self.process.poll() is None, self.log.read_text()
            if self.status() == 200:
                return time.monotonic() - began_s
            time.sleep(0.05)
        raise AssertionError(f"not ready after {READY_DEADLINE_S} s:\n{self.log.read_text()}")

    def wait_log(self, words: str) -> None:
        """Wait until its log holds these words."""
        until_s = time.monotonic() + READY_DEADLINE_S
        while words not in self.log.read_text():
            assert time.monotonic() < until_s, self.log.read_text()
            time.sleep(0.02)

    def status(self) -> int:
        """Return the status of `/readyz`, or 0 where nobody answers."""
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=5).status_code
        except httpx2.HTTPError:
            return 0

    def postgres_pid(self) -> int:
        """Return the number of the PostgreSQL process."""
        return int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """End it with SIGKILL; PostgreSQL lives on."""
        self.process.kill()
        self.process.wait()
