"""A process that does nothing but tick, by a clock that runs fast; the tests kill it. Arguments: URL, start, speed."""

import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from steelyard.runtime.database import Database
from tests.schedule_kit import ScheduleWorld, kinds_of
from tests.world import FreshDatabase


@dataclass
class FastClock:
    """Began at `start` when the machine's clock said `began_s`."""

    start: datetime
    began_s: float
    speed: float

    def now(self) -> datetime:
        """The same in every process, but for what machines' clocks differ by."""
        return self.start + timedelta(seconds=(time.time() - self.began_s) * self.speed)

    def monotonic_s(self) -> float:
        """Real seconds."""
        return time.monotonic()


async def main(url: str, start: str, began_s: str, speed: str) -> None:
    """Tick until killed."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    database = await Database.open(url, pool_size=4)
    clock = FastClock(datetime.fromisoformat(start), float(began_s), float(speed))
    world = ScheduleWorld(FreshDatabase("", "", url), database)
    scheduler = world.scheduler(clock=clock, kinds=kinds_of("export"))
    while True:
        sys.stdout.write(f"{await scheduler.tick_once()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
