"""Runs the embedded Valkey beside everything else: nobody waits for it longer than a few seconds, and nothing fails with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from steelyard.runtime.valkey.program import ValkeyUnavailable, find_program
from steelyard.runtime.valkey.server import ValkeyServer, start_valkey

LOOK_EVERY_S = 0.25
RESTART_PAUSE_MAX_S = 5.0

Report = Callable[[str], None]


@dataclass(slots=True)
class EmbeddedValkey:
    """A Valkey that is being started, or is there, or cannot be had."""

    report: Report
    restarts: int = 0
    server: ValkeyServer | None = None
    reason: str = ""
    """Why there is none."""

    async def start(self, data_dir: Path) -> None:
        """Start it, or note why it cannot be had."""
        try:
            program = await asyncio.to_thread(find_program)
            self.server = await start_valkey(data_dir, program)
        except ValkeyUnavailable as error:
            self.reason = str(error)

    async def watch(self, server: ValkeyServer) -> None:
        """Start it again whenever it ends; runs until it is cancelled."""
        pause_s = LOOK_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            if server.is_running:
                pause_s = LOOK_EVERY_S
                continue
            self.report("Valkey has ended; starting it again")
            try:
                await server.restart()
            except ValkeyUnavailable as error:
                pause_s = min(pause_s * 2, RESTART_PAUSE_MAX_S)
                self.report(f"{error}; trying again in {pause_s:.1f} s")
            else:
                self.restarts += 1
                self.report(f"Valkey {server.program.version} is back")


@asynccontextmanager
async def embedded_valkey(
    data_dir: Path, *, report: Report
) -> AsyncIterator[Callable[[], "asyncio.Future[str | None]"]]:
    """Start Valkey in a data folder that exists, keep it running while inside, and end it.

    Yields:
        A function whose awaited answer is its address, or None where there is none, which is reported; entering
        does not wait for it.
    """
    valkey = EmbeddedValkey(report)
    starting = asyncio.ensure_future(valkey.start(data_dir))
    watching: list[asyncio.Task[None]] = []

    async def address() -> str | None:
        await asyncio.shield(starting)
        if valkey.server is None:
            report(f"no Valkey: {valkey.reason}; cache and channel stay inside this process")
            return None
        if not watching:
            watching.append(asyncio.create_task(valkey.watch(valkey.server), name="watch Valkey"))
        return valkey.server.place.url

    try:
        yield lambda: asyncio.ensure_future(address())
    finally:
        await asyncio.wait({starting})
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        if valkey.server is not None:
            await valkey.server.stop()
