"""Child processes of the HTTP benchmark: servers that end with us, and the load."""

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
class Server:
    """A running server and where it logs."""

    name: str
    port: int
    log: Path

    def forget_log(self) -> None:
        """Empty the log, so that a long run fills no disk."""
        os.truncate(self.log, 0)


@asynccontextmanager
async def open_server(
    name: str, plan: Mapping[str, object], *, folder: Path
) -> AsyncIterator[Server]:
    """Run one server in a process of its own; it listens when this yields.

    Raises:
        BenchmarkUnsound: It ended instead of listening.
    """
    log = folder / f"{name}.log"
    with log.open("ab") as errors:
        process = await _start("steelyard.cli.benchmarks.child", stderr=errors.fileno())
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        async with asyncio.timeout(START_DEADLINE_S):
            line = await process.stdout.readline()
        if not line:
            raise BenchmarkUnsound(side=name, problem=f"its server ended: {_tail(log)}")
        yield Server(name, int(line), log)
    finally:
        await _end(process)


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
