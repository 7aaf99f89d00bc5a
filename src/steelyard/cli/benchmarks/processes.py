"""Child processes of the benchmarks: servers that end with us, and what drives them."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

import steelyard
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.http_load import LoadPlan, LoadResult

START_DEADLINE_S = 60.0
END_DEADLINE_S = 15.0
LOG_TAIL = 600
SOURCE = str(Path(steelyard.__file__).resolve().parent.parent)
"""Where the child finds this very code."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours that answers lines with lines."""

    process: asyncio.subprocess.Process

    async def ask(self, what: object, deadline_s: float) -> bytes:
        """Send one line, JSON of `what` (None: an empty one), and return the line that answers it.

        Raises:
            BenchmarkUnsound: The process ended, or did not answer in time.
        """
        assert self.process.stdin is not None
        self.process.stdin.write((b"" if what is None else msgspec.json.encode(what)) + b"\n")
        return await self.read_line(deadline_s)

    async def read_line(self, deadline_s: float) -> bytes:
        """Return the next line.

        Raises:
            BenchmarkUnsound: As `ask`.
        """
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(deadline_s):
                line = await self.process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise BenchmarkUnsound(side="a part of the rig", problem="it ended or does not answer")
        return line


@asynccontextmanager
async def open_child(module: str, plan: object) -> AsyncIterator[Child]:
    """Run a module of ours with its plan on stdin; it ends when its stdin does."""
    process = await _start(module, stderr=None)
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(plan) + b"\n")
        yield Child(process)
    finally:
        await _end(process)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and where it logs."""

    name: str
    port: int
    log: Path
    process: asyncio.subprocess.Process

    async def cpu_s(self) -> float:
        """Return the processor time it has used so far.

        Raises:
            BenchmarkUnsound: It ended.
        """
        return float(await Child(self.process).ask(None, START_DEADLINE_S))

    def forget_log(self) -> None:
        """Empty the log, so that a long run fills no disk."""
        os.truncate(self.log, 0)


@asynccontextmanager
async def open_servers(
    plans: Mapping[str, Mapping[str, object]], *, folder: Path
) -> AsyncIterator[dict[str, Server]]:
    """Run a server for each plan, each in a process of its own; they listen when this yields.

    Raises:
        BenchmarkUnsound: One ended instead of listening.
    """
    started: dict[str, asyncio.subprocess.Process] = {}
    try:
        for name, plan in plans.items():
            with _log_of(name, folder).open("ab") as errors:
                process = await _start("steelyard.cli.benchmarks.child", stderr=errors.fileno())
            started[name] = process
            assert process.stdin is not None
            process.stdin.write(json.dumps(plan).encode() + b"\n")
        yield {name: await _listening(name, process, folder) for name, process in started.items()}
    finally:
        await asyncio.gather(*(_end(process) for process in started.values()))


async def _listening(name: str, process: asyncio.subprocess.Process, folder: Path) -> Server:
    assert process.stdout is not None
    log = _log_of(name, folder)
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            line = await process.stdout.readline()
    except TimeoutError:
        raise BenchmarkUnsound(side=name, problem="its server does not start") from None
    if not line:
        raise BenchmarkUnsound(side=name, problem=f"its server ended: {_tail(log)}")
    return Server(name, int(line), log, process)


def _log_of(name: str, folder: Path) -> Path:
    return folder / f"{name}.log"


async def run_load_process(plan: LoadPlan, server: Server) -> LoadResult:
    """Run the load in a process of its own.

    Raises:
        BenchmarkUnsound: An answer was not the expected one, or the load ended early.
    """
    process = await _start("steelyard.cli.benchmarks.http_load", stderr=None)
    try:
        async with asyncio.timeout(plan.warm_s + plan.seconds + START_DEADLINE_S):
            out, _ = await process.communicate(msgspec.json.encode(plan) + b"\n")
    finally:
        await _end(process)
    if process.returncode != 0 or not out:
        raise BenchmarkUnsound(side=server.name, problem="the load ended without a result")
    result = msgspec.json.decode(out, type=LoadResult)
    if result.unexpected:
        raise BenchmarkUnsound(
            side=server.name, problem=f"it answered {result.unexpected}: {_tail(server.log)}"
        )
    return result


async def _start(module: str, *, stderr: int | None) -> asyncio.subprocess.Process:
    paths = [SOURCE, *filter(None, [os.environ.get("PYTHONPATH")])]
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,  # Ctrl-C is for us; we end them
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_DEADLINE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]
    return " ".join(text.split())
